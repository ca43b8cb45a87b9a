//! What the machine and the guest kernel share: boot information, mailbox, ports, probes
#![cfg_attr(target_os = "none", no_std)]
