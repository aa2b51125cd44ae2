"""What every score says of itself, by the input it needs. Plain data: reading it computes and loads nothing."""
