"""Weight slicing: choices, sliced layers, supernets as segments, extraction, gates and dynamic inference."""
