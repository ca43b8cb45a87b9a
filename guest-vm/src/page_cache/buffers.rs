//! Buffer heads: what a page of a file has for each block of 4 KB on the disk (fs/buffer.c, fs/mpage.c, mm/swap.c of 2.6.7).
//!
//! They lie in low memory wherever their page lies, and hold a reference to it. 2.6 gives them to pages that write() fills
//! (block_prepare_write) and to dirty pages that reclaim writes (block_write_full_page); mpage reads and writes without. 2.4 gives them to
//! pages that are read, too. ext2 mounted `nobh` has none ([`Buffers`]). They go when reclaim or truncation takes the page
//! (try_to_release_page), and while there are more than 10 % of low memory could hold, when a page is deactivated or
//! written. Left out: disk blocks smaller than 4 KB, block numbers on a disk (a block's is its index in the file), buffers of
//! metadata, lists of associated buffers (b_assoc_buffers stays empty). When no buffer head can be had, the real kernel goes round until
//! there is one; here its allocation has gone round itself ([`crate::page_alloc`]), and what then fails is write(), while reads and
//! writes of whole pages do without.
//!
//! Invariant: PG_private says whether page->private is a ring of as many buffer heads as the page has blocks, each of which names the page;
//! none of a page that is not locked is locked but for writes under way.

use crate::axes::Era;
use crate::bug_on;
use crate::cluster;
use crate::guest_struct;
use crate::kernel::{Kernel, Oom};
use crate::layout::{Mapping, Page, pg};
use crate::list::ListHead;
use crate::lru::Pagevec;
use crate::objects::objects;
use crate::page;
use crate::page_alloc::{self, Gfp, ZoneKind, zone};
use crate::page_cache::track;
use crate::ptr::Low;
use crate::root;
use crate::slab::{CacheId, kmem_cache_alloc, kmem_cache_free};
use lowmem_abi::layout::{PAGE_SHIFT, PAGE_SIZE};

/// Bits of b_state (enum bh_state_bits).
pub mod bh {
    /// Contains valid data.
    pub const UPTODATE: u32 = 0;
    /// Is to be written.
    pub const DIRTY: u32 = 1;
    /// A transfer is under way, or its state changes.
    pub const LOCK: u32 = 2;
    /// Has been submitted before.
    pub const REQ: u32 = 3;
    /// Its place on the disk is known.
    pub const MAPPED: u32 = 4;
    /// Its completion ends the page's write (end_buffer_async_write).
    pub const ASYNC_WRITE: u32 = 7;
}

guest_struct! {
    /// buffer_head: 48 bytes in 2.6 with sector_t of 4 bytes; the order of fields is that of 2.6.7. 2.4: 96 bytes (slabinfo(5)).
    pub struct BufferHead [K k] size if in_2_4(k) { 96 } else { 48 };
    at 0 => word b_state, set_b_state: u32;
    at 4 => word b_count, set_b_count: u32;
    at 8 => word b_this_page, set_b_this_page: Low<BufferHead>;
    at 12 => word b_page, set_b_page: Low<Page>;
    at 16 => word b_blocknr, set_b_blocknr: u32;
    at 20 => word b_size, set_b_size: u32;
    /// Address of the block; for a page in high memory its offset in it.
    at 24 => word b_data, set_b_data: u32;
    at 28 => word b_bdev, set_b_bdev: u32;
    at 32 => word b_end_io, set_b_end_io: u32;
    at 40 => part b_assoc_buffers: ListHead;
}

guest_struct! {
    /// bh_accounting of this CPU.
    pub struct Accounting [K] size 8;
    at 0 => word nr, set_nr: u32;
    at 4 => word ratelimit, set_ratelimit: u32;
}

/// Changes of the number of buffer heads between two looks at the limit.
const RATELIMIT: u32 = 4096;

/// Which pages of files get buffer heads; numbers are those of the boot information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Buffers {
    /// None (ext2 mounted nobh).
    None = 0,
    /// Pages that write() or reclaim write (2.6).
    Written = 1,
    /// Those that are read as well (2.4).
    All = 2,
}

/// Which pages get them in this boot.
#[inline(always)]
pub fn kept<K: Kernel>(k: K) -> Buffers {
    match objects(k).buffers(k) {
        0 => Buffers::None,
        1 => Buffers::Written,
        _ => Buffers::All,
    }
}

#[inline(always)]
fn in_2_4<K: Kernel>(k: K) -> bool {
    matches!(k.axes().era(), Era::V2_4)
}

#[inline(always)]
fn accounting<K: Kernel>(k: K) -> Low<Accounting> {
    root::part(k, root::PER_CPU_OBJECTS + 0x80)
}

/// Buffer heads there are; for checks.
pub fn count<K: Kernel>(k: K) -> u32 {
    accounting(k).nr(k)
}

/// buffer_init: the limit is what 10 % of low memory could hold. No watermark is set yet when it is computed.
pub fn init<K: Kernel>(k: K, kind: u32) {
    let o = objects(k);
    let node = zone::node(k);
    let low = node.zone(k, ZoneKind::Dma as u32).present_pages(k)
        + node.zone(k, ZoneKind::Normal as u32).present_pages(k);
    let per_page = match in_2_4(k) {
        true => PAGE_SIZE / 96,
        false => PAGE_SIZE / 48,
    };
    o.set_buffers(k, kind);
    o.set_max_buffer_heads(k, low * 10 / 100 * (per_page << cluster::mmu_shift(k)));
    o.set_buffer_heads_over_limit(k, 0);
    o.page_uptodate_lock(k).init(k);
    accounting(k).set_nr(k, 0);
    accounting(k).set_ratelimit(k, 0);
}

/// recalc_bh_state, after nr has changed.
#[inline(always)]
fn account<K: Kernel>(k: K, n: u32) {
    let a = accounting(k);
    a.set_nr(k, a.nr(k).wrapping_add(n));
    let seen = a.ratelimit(k);
    a.set_ratelimit(k, seen + 1);
    if seen >= RATELIMIT {
        a.set_ratelimit(k, 0);
        let o = objects(k);
        let over = a.nr(k) > o.max_buffer_heads(k);
        o.set_buffer_heads_over_limit(k, over as u32);
    }
}

/// buffer_heads_over_limit, which only 2.6 looks at.
#[inline(always)]
pub fn over_limit<K: Kernel>(k: K) -> bool {
    objects(k).buffer_heads_over_limit(k) != 0 && !in_2_4(k)
}

/// init_buffer_head, the cache's constructor.
pub fn construct<K: Kernel>(k: K, b: Low<BufferHead>) {
    let mut at = 0;
    while at < CacheId::BufferHead.object_bytes(k) {
        b.field::<u32>(at).write(k, 0);
        at += 4;
    }
    b.b_assoc_buffers(k).init(k);
}

/// page_has_buffers of a page of a file: PG_private; 2.4 looked at page->buffers.
#[inline(always)]
pub fn has<K: Kernel>(k: K, page: Low<Page>) -> bool {
    if in_2_4(k) {
        page.private(k) != 0
    } else {
        page::test(k, page, pg::PRIVATE)
    }
}

/// References that a page's buffer heads hold.
#[inline(always)]
pub fn references<K: Kernel>(k: K, page: Low<Page>) -> u32 {
    (page::in_file(k, page) && has(k, page)) as u32
}

/// Calls `f` for each buffer head of a page that has some, in order of its blocks.
#[inline(always)]
pub fn each<K: Kernel>(k: K, page: Low<Page>, mut f: impl FnMut(Low<BufferHead>)) {
    let head = Low::new(page.private(k));
    let mut b: Low<BufferHead> = head;
    loop {
        let next = b.b_this_page(k);
        f(b);
        b = next;
        if b == head {
            return;
        }
    }
}

#[inline(always)]
fn test<K: Kernel>(k: K, b: Low<BufferHead>, bit: u32) -> bool {
    b.b_state(k) & (1 << bit) != 0
}

#[inline(always)]
fn set<K: Kernel>(k: K, b: Low<BufferHead>, bit: u32) {
    k.set_bit(b.field(0), bit);
}

#[inline(always)]
fn clear<K: Kernel>(k: K, b: Low<BufferHead>, bit: u32) {
    k.clear_bit(b.field(0), bit);
}

/// lock_buffer: nobody else can hold it.
#[inline(always)]
fn lock_buffer<K: Kernel>(k: K, b: Low<BufferHead>) {
    let held = k.test_and_set_bit(b.field(0), bh::LOCK);
    bug_on!(k, PageCache, held, b.va());
}

#[inline(always)]
fn private_lock<K: Kernel>(k: K, page: Low<Page>) -> Low<crate::sync::SpinLock> {
    Low::<Mapping>::new(page.mapping(k)).private_lock(k)
}

/// alloc_page_buffers: one buffer head for each block, the last one first; chained, not yet a ring.
fn alloc_page_buffers<K: Kernel>(k: K, page: Low<Page>) -> Result<Low<BufferHead>, Oom> {
    let data = page_alloc::page_address(k, page).unwrap_or(0);
    let mut head: Low<BufferHead> = Low::NULL;
    let mut i = cluster::mmu_count(k);
    while i > 0 {
        i -= 1;
        let b = match kmem_cache_alloc(k, CacheId::BufferHead, Gfp::NoFs) {
            Ok(b) => b,
            Err(e) => {
                while !head.is_null() {
                    let next = head.b_this_page(k);
                    free_buffer_head(k, head);
                    head = next;
                }
                return Err(e);
            }
        };
        account(k, 1);
        b.set_b_bdev(k, 0);
        b.set_b_this_page(k, head);
        b.set_b_blocknr(k, u32::MAX);
        b.set_b_state(k, 0);
        b.set_b_count(k, 0);
        b.set_b_size(k, PAGE_SIZE);
        b.set_b_page(k, page);
        b.set_b_data(k, data + (i << PAGE_SHIFT));
        b.set_b_end_io(k, 0);
        head = b;
    }
    Ok(head)
}

fn free_buffer_head<K: Kernel>(k: K, b: Low<BufferHead>) {
    bug_on!(k, PageCache, !b.b_assoc_buffers(k).is_empty(k), b.va());
    kmem_cache_free(k, CacheId::BufferHead, b);
    account(k, u32::MAX);
}

/// create_empty_buffers: a locked page gets its ring, whose buffers start in `state` and know what the page is.
fn create_empty_buffers<K: Kernel>(k: K, page: Low<Page>, state: u32) -> Result<(), Oom> {
    let head = alloc_page_buffers(k, page)?;
    let (mut b, mut tail) = (head, head);
    while !b.is_null() {
        b.set_b_state(k, b.b_state(k) | state);
        tail = b;
        b = b.b_this_page(k);
    }
    tail.set_b_this_page(k, head);
    let lock = private_lock(k, page);
    lock.lock(k);
    page::get_page(k, page);
    if !in_2_4(k) {
        page::set(k, page, pg::PRIVATE);
    }
    page.set_private(k, head.va());
    let (dirty, uptodate) = (
        page::test(k, page, pg::DIRTY),
        page::test(k, page, pg::UPTODATE),
    );
    if dirty || uptodate {
        each(k, page, |b| {
            if dirty {
                set(k, b, bh::DIRTY);
            }
            if uptodate {
                set(k, b, bh::UPTODATE);
            }
        });
    }
    lock.unlock(k);
    Ok(())
}

/// get_block: the place of a block on the disk is its place in the file.
fn map<K: Kernel>(k: K, page: Low<Page>, b: Low<BufferHead>) {
    if test(k, b, bh::MAPPED) {
        return;
    }
    let sub = b.b_data(k) >> PAGE_SHIFT & (cluster::mmu_count(k) - 1);
    b.set_b_blocknr(k, (page.index(k) << cluster::mmu_shift(k)) + sub);
    set(k, b, bh::MAPPED);
}

/// Whether the block of `b` and the bytes of `range` in its page have one in common.
#[inline(always)]
fn within<K: Kernel>(k: K, b: Low<BufferHead>, (from, to): (u32, u32)) -> bool {
    let at = b.b_data(k) & (cluster::page_bytes(k) - 1);
    at < to && at + PAGE_SIZE > from
}

/// block_prepare_write of the bytes from `range.0` up to `range.1` of a locked page of a file: it gets its buffers, and what will be written its
/// place. What a partial write leaves of a page that is not up to date, the caller reads.
pub fn prepare_write<K: Kernel>(k: K, page: Low<Page>, range: (u32, u32)) -> Result<(), Oom> {
    if kept(k) == Buffers::None {
        return Ok(());
    }
    if !has(k, page) {
        create_empty_buffers(k, page, 0)?;
    }
    let uptodate = page::test(k, page, pg::UPTODATE);
    each(k, page, |b| {
        if within(k, b, range) {
            map(k, page, b);
        }
        if uptodate && !test(k, b, bh::UPTODATE) {
            set(k, b, bh::UPTODATE);
        }
    });
    Ok(())
}

/// __block_commit_write: what was written is valid and dirty, and with it the page.
pub fn commit_write<K: Kernel>(k: K, page: Low<Page>, range: (u32, u32)) {
    each(k, page, |b| {
        if within(k, b, range) {
            set(k, b, bh::UPTODATE);
            if !test(k, b, bh::DIRTY) && !k.test_and_set_bit(b.field(0), bh::DIRTY) {
                track::set_page_dirty_nobuffers(k, page);
            }
        }
    });
}

/// The first half of block_read_full_page: a page that is about to be read gets buffers where its kernel reads through them; those that
/// it has are locked.
pub fn begin_read<K: Kernel>(k: K, page: Low<Page>) {
    if kept(k) == Buffers::All && !has(k, page) {
        let _ = create_empty_buffers(k, page, 0);
    }
    if has(k, page) {
        each(k, page, |b| {
            map(k, page, b);
            lock_buffer(k, b);
            set(k, b, bh::REQ);
        });
    }
}

/// Its second half (end_buffer_async_read): the device has delivered.
pub fn end_read<K: Kernel>(k: K, page: Low<Page>) {
    if has(k, page) {
        each(k, page, |b| {
            set(k, b, bh::UPTODATE);
            clear(k, b, bh::LOCK);
        });
    }
}

/// The first half of __set_page_dirty_buffers: the buffers of a page that is becoming dirty as a whole.
#[inline]
pub fn set_dirty<K: Kernel>(k: K, mapping: Low<Mapping>, page: Low<Page>) {
    if kept(k) == Buffers::None {
        return;
    }
    mapping.private_lock(k).lock(k);
    if has(k, page) {
        each(k, page, |b| {
            if test(k, b, bh::UPTODATE) {
                set(k, b, bh::DIRTY);
            }
        });
    }
    mapping.private_lock(k).unlock(k);
}

/// mpage_writepage's look at the buffers of a locked page: whether the page can be written whole, without them. They are clean
/// then, and gone if there are too many in the machine.
pub fn written_whole<K: Kernel>(k: K, page: Low<Page>) -> bool {
    if !has(k, page) {
        return true;
    }
    let mut whole = true;
    let wanted = 1 << bh::DIRTY | 1 << bh::UPTODATE | 1 << bh::MAPPED;
    each(k, page, |b| {
        bug_on!(k, PageCache, test(k, b, bh::LOCK), b.va());
        whole &= b.b_state(k) & wanted == wanted;
    });
    if whole {
        each(k, page, |b| clear(k, b, bh::DIRTY));
        if over_limit(k) {
            try_to_free_buffers(k, page);
        }
    }
    whole
}

/// The first half of block_write_full_page of a locked page: its buffers, made for it if it has none, are locked where they are
/// dirty. False: there are none.
pub fn begin_write<K: Kernel>(k: K, page: Low<Page>) -> bool {
    if kept(k) == Buffers::None {
        return false;
    }
    let state = 1 << bh::DIRTY | 1 << bh::UPTODATE;
    if !has(k, page) && create_empty_buffers(k, page, state).is_err() {
        return false;
    }
    each(k, page, |b| {
        if test(k, b, bh::DIRTY) {
            map(k, page, b);
        }
    });
    each(k, page, |b| {
        k.atomic_add(b.field(4), 1);
        if !test(k, b, bh::MAPPED) {
            return;
        }
        lock_buffer(k, b);
        if k.test_and_clear_bit(b.field(0), bh::DIRTY) {
            b.set_b_end_io(k, bh::ASYNC_WRITE);
            set(k, b, bh::ASYNC_WRITE);
        } else {
            clear(k, b, bh::LOCK);
        }
    });
    true
}

/// Its second half, with the page under writeback and unlocked: submit_bh of what was dirty. False: nothing was, the page had
/// become dirty while its buffers were on their way.
pub fn submit<K: Kernel>(k: K, page: Low<Page>) -> bool {
    let mut under_way = false;
    each(k, page, |b| {
        if test(k, b, bh::ASYNC_WRITE) {
            set(k, b, bh::REQ);
            under_way = true;
        }
        k.atomic_add(b.field(4), u32::MAX);
    });
    under_way
}

/// end_buffer_async_write of every buffer of a page that has been written through them.
pub fn end_async_write<K: Kernel>(k: K, page: Low<Page>) {
    if references(k, page) == 0 {
        return;
    }
    let lock = objects(k).page_uptodate_lock(k);
    each(k, page, |b| {
        if !test(k, b, bh::ASYNC_WRITE) {
            return;
        }
        set(k, b, bh::UPTODATE);
        let irq = k.irq_save();
        lock.lock(k);
        clear(k, b, bh::ASYNC_WRITE);
        clear(k, b, bh::LOCK);
        lock.unlock(k);
        k.irq_restore(irq);
    });
}

/// try_to_release_page of a locked page with buffers: whether they are gone.
pub fn try_to_release_page<K: Kernel>(k: K, page: Low<Page>) -> bool {
    bug_on!(k, PageCache, !page::test(k, page, pg::LOCKED), page.va());
    !page::test(k, page, pg::WRITEBACK) && try_to_free_buffers(k, page)
}

/// try_to_free_buffers: unless one is dirty, locked or in use. A page that is dirty though none of them is, is clean.
fn try_to_free_buffers<K: Kernel>(k: K, page: Low<Page>) -> bool {
    let mapping = Low::<Mapping>::new(page.mapping(k));
    mapping.private_lock(k).lock(k);
    let mut busy = false;
    each(k, page, |b| {
        busy |= b.b_count(k) != 0 || b.b_state(k) & (1 << bh::DIRTY | 1 << bh::LOCK) != 0;
    });
    let head = Low::<BufferHead>::new(page.private(k));
    if !busy {
        if !in_2_4(k) {
            page::clear(k, page, pg::PRIVATE);
        }
        page.set_private(k, 0);
        page::put_page(k, page);
        track::clear_page_dirty(k, mapping, page);
    }
    mapping.private_lock(k).unlock(k);
    if busy {
        return false;
    }
    let mut b = head;
    loop {
        let next = b.b_this_page(k);
        free_buffer_head(k, b);
        b = next;
        if b == head {
            return true;
        }
    }
}

/// pagevec_strip: the pages of a vector that nobody has locked lose their buffers.
pub fn strip<K: Kernel>(k: K, pvec: Low<Pagevec>) {
    let mut i = 0;
    while i < pvec.nr(k) {
        let page = pvec.page(k, i);
        if references(k, page) != 0 && page::trylock_page(k, page) {
            if has(k, page) {
                try_to_release_page(k, page);
            }
            page::unlock_page(k, page);
        }
        i += 1;
    }
}

/// block_invalidatepage of a locked page: what its buffers from the block at `sub` on were to write is void; from the first, they go.
pub fn invalidate_page<K: Kernel>(k: K, page: Low<Page>, sub: u32) {
    if !has(k, page) {
        return;
    }
    each(k, page, |b| {
        if b.b_data(k) >> PAGE_SHIFT & (cluster::mmu_count(k) - 1) >= sub {
            lock_buffer(k, b);
            clear(k, b, bh::DIRTY);
            b.set_b_bdev(k, 0);
            for bit in [bh::MAPPED, bh::REQ] {
                clear(k, b, bit);
            }
            clear(k, b, bh::LOCK);
        }
    });
    if sub == 0 {
        let released = try_to_release_page(k, page);
        bug_on!(k, PageCache, !released, page.va());
    }
}
