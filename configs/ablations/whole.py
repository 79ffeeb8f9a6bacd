"""Nothing left out: the cascade with which the others are compared. Table 3, row "description + CFG"."""


def change(cascade):
    return cascade
