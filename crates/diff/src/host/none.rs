//! Hosts that are no oracle. Invariant: no value of [`Host`] exists.

use super::HostError;
use crate::case::Case;
use crate::layout::Layout;
use crate::outcome::Outcome;
use std::convert::Infallible;

/// Cannot be made here.
#[derive(Debug)]
pub struct Host(Infallible);

impl Host {
    /// Always [`HostError::Unsupported`].
    pub fn new() -> Result<Host, HostError> {
        Err(HostError::Unsupported)
    }
    /// Never called.
    pub fn layout(&self) -> &Layout {
        match self.0 {}
    }
    /// Never called.
    pub fn image(&self) -> &[u8] {
        match self.0 {}
    }
    /// Never called.
    pub fn image_mut(&mut self) -> &mut [u8] {
        match self.0 {}
    }
    /// Never called.
    pub fn run(&mut self, _case: &Case) -> Outcome {
        match self.0 {}
    }
}
