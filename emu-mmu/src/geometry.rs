//! Is a geometry one that can be built? A preset file is input; its mistakes are errors, not panics.
//!
//! Invariant: whatever passes here is accepted by every constructor below without a panic, and within bounded memory.

use lowmem_cost::geometry::{CacheGeometry, FrontEnd, Geometry, LargePages, SetAssoc, TlbGeometry};

/// Most entries of one TLB level or trace cache.
const MAX_ENTRIES: u32 = 1 << 16;
/// Largest cache, in KiB.
const MAX_CACHE_KIB: u32 = 1 << 20;

/// A geometry that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cpu geometry: {what}")]
pub struct GeometryError {
    /// What is wrong, with its numbers.
    pub what: String,
}

fn refuse(what: String) -> Result<(), GeometryError> {
    Err(GeometryError { what })
}

/// Checks every size.
pub fn check_geometry(g: &Geometry) -> Result<(), GeometryError> {
    if !(32..=52).contains(&g.maxphyaddr) {
        return refuse(format!("maxphyaddr {} is not 32 to 52", g.maxphyaddr));
    }
    tlb("itlb", &g.itlb)?;
    tlb("dtlb", &g.dtlb)?;
    if g.pde_cache > MAX_ENTRIES {
        return refuse(format!("pde_cache {} is above {MAX_ENTRIES}", g.pde_cache));
    }
    match &g.front_end {
        FrontEnd::L1i(c) => cache("l1i", c)?,
        FrontEnd::TraceCache {
            lines,
            ways,
            line_bytes,
            ..
        } => {
            entries("trace_cache", *lines, *ways)?;
            if !line_bytes.is_power_of_two() || !(4..=4096).contains(line_bytes) {
                return refuse(format!(
                    "trace_cache line_bytes {line_bytes} is not a power of two from 4 to 4096"
                ));
            }
        }
    }
    cache("l1d", &g.l1d)?;
    cache("l2", &g.l2)?;
    if let Some(l3) = &g.l3 {
        cache("l3", l3)?;
    }
    if !g.dram_page_bytes.is_power_of_two() {
        return refuse(format!(
            "dram_page_bytes {} is no power of two",
            g.dram_page_bytes
        ));
    }
    Ok(())
}

fn tlb(name: &str, g: &TlbGeometry) -> Result<(), GeometryError> {
    let table = |part: &str, s: &SetAssoc| entries(&format!("{name}.{part}"), s.entries, s.ways);
    table("small", &g.small)?;
    if let LargePages::Separate(large) = &g.large {
        table("large", large)?;
    }
    g.second.as_ref().map_or(Ok(()), |s| table("second", s))
}

fn entries(name: &str, entries: u32, ways: u32) -> Result<(), GeometryError> {
    let fits = (1..=MAX_ENTRIES).contains(&entries) && ways > 0 && entries.is_multiple_of(ways);
    if fits {
        Ok(())
    } else {
        refuse(format!(
            "{name}: {entries} entries in {ways} ways (needs 1 to {MAX_ENTRIES}, a multiple of the ways)"
        ))
    }
}

fn cache(name: &str, g: &CacheGeometry) -> Result<(), GeometryError> {
    // A line must hold the four PDPTEs, which are aligned to 32 bytes, and lie within a page.
    if !g.line.is_power_of_two() || !(32..=4096).contains(&g.line) {
        return refuse(format!(
            "{name}: line {} is not a power of two from 32 to 4096",
            g.line
        ));
    }
    let lines = u64::from(g.kib) * 1024 / u64::from(g.line);
    let whole = g.ways > 0 && lines.is_multiple_of(u64::from(g.ways)) && lines > 0;
    if !whole || g.kib > MAX_CACHE_KIB {
        return refuse(format!(
            "{name}: {} KiB of {}-byte lines in {} ways (needs whole sets, at most {MAX_CACHE_KIB} KiB)",
            g.kib, g.line, g.ways
        ));
    }
    Ok(())
}
