"""What one trained run is measured by, and asked."""
