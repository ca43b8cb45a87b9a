//! CPU, MMU, guest image, trace source and probes as one machine, in native and cycle mode
