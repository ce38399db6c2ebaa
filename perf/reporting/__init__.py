"""What a comparison has shown: tables, plots, verdicts, costs."""
