//! Operations of several CPUs laid on one.
