"""Figure 6: no multiple attention. The ControlNet's features are only added."""

from dataclasses import replace


def change(cascade):
    return replace(cascade, switches=replace(cascade.switches, reference_attention=False, lr_attention=False))
