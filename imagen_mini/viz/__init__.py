"""Figures and measurements that notebooks and scripts share, by subject."""
