"""What the pure rooms and shells expect of the outside world."""
