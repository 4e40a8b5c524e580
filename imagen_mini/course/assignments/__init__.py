"""The graded assignments: one folder each, with a manifest that names what students write."""
