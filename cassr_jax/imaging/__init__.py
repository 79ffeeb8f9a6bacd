"""Picture files, tiles and colour; knows no network."""
