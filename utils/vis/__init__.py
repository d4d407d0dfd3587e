"""What a user looks at: terminal, live page, grids, HTML report."""
