"""What a run is, how it is named, where its results lie. Imports neither torch nor ray."""
