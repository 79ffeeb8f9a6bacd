"""What trains, one step of it, checkpoints, and the loop around them."""
