"""Reading and writing weights in every published layout."""
