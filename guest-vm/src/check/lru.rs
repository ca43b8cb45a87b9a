//! Rule 10: a page is on exactly one of active list, inactive list, vector; counters are list lengths.

use super::Violation;
use crate::kernel::Kernel;
use crate::layout::pg;
use crate::lru;
use crate::page;
use crate::page_alloc::{ZoneKind, page_to_pfn, zone};
use std::collections::{BTreeMap, BTreeSet};

/// Checks lists and vectors; returns how often each frame is in a vector.
pub(super) fn check<K: Kernel>(k: K) -> Result<BTreeMap<u32, u32>, Violation> {
    let mut seen = BTreeSet::new();
    for kind in ZoneKind::ALL {
        let z = zone::zone(k, kind);
        if !z.lru_lock(k).is_free(k) {
            return Err(Violation::Locked {
                at: z.va(),
                what: "lru_lock",
            });
        }
        for (head, counter, active) in [
            (z.active_list(k), z.nr_active(k), true),
            (z.inactive_list(k), z.nr_inactive(k), false),
        ] {
            let mut n = 0;
            let mut at = head.next(k);
            while at != head {
                let p = page::of_lru(k, at);
                let pfn = page_to_pfn(k, p);
                let wrong = |what| Violation::Lru {
                    pfn,
                    what,
                    value: p.flags(k),
                };
                if !page::test(k, p, pg::LRU) {
                    return Err(wrong("on a list without PG_lru"));
                }
                if page::test(k, p, pg::ACTIVE) != active {
                    return Err(wrong("on the wrong list"));
                }
                if p.flags(k) >> pg::ZONE_SHIFT != kind as u32 {
                    return Err(wrong("on another zone's list"));
                }
                if p.count(k) == 0 {
                    return Err(wrong("free but on a list"));
                }
                if !seen.insert(pfn) || at.next(k).prev(k) != at {
                    return Err(wrong("on two lists, or broken links"));
                }
                n += 1;
                at = at.next(k);
            }
            if n != counter {
                return Err(Violation::Lru {
                    pfn: 0,
                    what: "counter",
                    value: counter,
                });
            }
        }
    }
    let mut vectors = BTreeMap::new();
    let v = lru::vectors(k);
    for pvec in [v.inactive(k), v.active(k)] {
        for i in 0..pvec.nr(k) {
            let p = pvec.page(k, i);
            let pfn = page_to_pfn(k, p);
            *vectors.entry(pfn).or_default() += 1;
            if page::test(k, p, pg::LRU) || seen.contains(&pfn) {
                return Err(Violation::Lru {
                    pfn,
                    what: "in a vector and on a list",
                    value: i,
                });
            }
        }
    }
    for pvec in [v.to_free(k), v.lookup(k)] {
        if pvec.nr(k) != 0 {
            return Err(Violation::Lru {
                pfn: 0,
                what: "scratch vector not empty",
                value: pvec.va(),
            });
        }
    }
    Ok(vectors)
}
