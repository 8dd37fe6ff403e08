"""A study of classification losses: its plan, runs, statistics, tables and figures."""
