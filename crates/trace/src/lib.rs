//! Workload traces: operations, file format, importers, schedule, TraceBuilder
