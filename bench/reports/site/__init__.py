"""A results directory as a static site: an index, a page for each test split, the methods, and how numbers are made."""
