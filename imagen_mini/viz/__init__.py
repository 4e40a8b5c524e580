"""Everything that plots or lays images out. The numbers come from elsewhere."""
