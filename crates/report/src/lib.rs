//! Costs to tables, JSON and CSV
