//! The plain model of a trace: what every process must see, computed without pages, caches, swap or sharing.
//!
//! An address space is a map of non-zero words, with the set of pages that are its own; an object (file, segment) is a map of words.
//! fork copies the maps, a store into a private page of a file copies the file's words, and nothing is ever evicted. The same
//! [`Replayer`] drives it as drives a machine, so it can be stopped at the very step at which a machine has ended, whatever the outcome:
//! a complete run, no memory for a call, a kill, a livelock.
//!
//! Compared are the private pages of all living address spaces, in memory or in swap, the changed pages of all objects, and at the
//! end the hash of everything that was loaded. A call in which the run ended may be half done: of the pages that it
//! changes, each may look as before or as after it.
//!
//! Left out: file pages that were never changed; the words below a stack's top that only sysenter writes.
//!
//! Invariant: the model's state depends on trace, assumptions and position only.

use crate::call::Marshalled;
use crate::device::{SHMEM_FILES, synthetic_words};
use crate::drive_native::fold_bytes;
use crate::machine::Machine;
use crate::mailbox;
use crate::replayer::{Entry, Next, Pause, Position, Replayer, STUB_STACK_BYTES, Step, pid};
use emu_mmu::PhysMem;
use guest_vm::file::FIRST_UNNAMED;
use guest_vm::mm::shm::FIRST_SEGMENT_FILE;
use lowmem_trace::space::{Area, Object};
use lowmem_trace::{Advice, Assumptions, Call, Prot, TaskId, Trace};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a page.
const PAGE: u32 = 4096;
/// RAM of the machine that is none: it holds the mailbox.
const MAILBOX_RAM: u64 = 24 << 20;

/// A page of an object: the kernel's file id, and the page's number.
type ObjectPage = (u32, u32);
/// The non-zero words of a page, by offset.
type Words = BTreeMap<u32, u32>;

/// An address space.
#[derive(Debug, Clone, Default)]
struct PlainSpace {
    /// Private words by address.
    words: BTreeMap<u32, u32>,
    /// Addresses of pages that were written, or copied to be.
    own: BTreeSet<u32>,
}

impl PlainSpace {
    fn forget(&mut self, start: u32, end: u32) {
        if start < end {
            self.take(start, end);
        }
    }

    /// Words and pages of a range, taken out.
    fn take(&mut self, start: u32, end: u32) -> PlainSpace {
        let words: Vec<(u32, u32)> = self
            .words
            .range(start..end)
            .map(|(a, w)| (*a, *w))
            .collect();
        let own: Vec<u32> = self.own.range(start..end).copied().collect();
        for (at, _) in &words {
            self.words.remove(at);
        }
        for page in &own {
            self.own.remove(page);
        }
        PlainSpace {
            words: words.into_iter().collect(),
            own: own.into_iter().collect(),
        }
    }

    fn page(&self, page: u32) -> Words {
        let end = u64::from(page) + u64::from(PAGE);
        let inside = self.words.range(page..);
        inside
            .take_while(|(at, _)| u64::from(**at) < end)
            .map(|(at, w)| (at - page, *w))
            .collect()
    }
}

/// Contents of address spaces and objects.
#[derive(Debug, Clone, Default)]
struct Contents {
    /// By the replayer's number of the address space.
    spaces: BTreeMap<u32, PlainSpace>,
    /// Pages of objects that were written.
    objects: BTreeMap<ObjectPage, Words>,
    /// First page behind the shortest end of each truncated file.
    ends: BTreeMap<u32, u32>,
}

/// The model on its way through a trace.
#[derive(Clone)]
pub struct Plain {
    replayer: Replayer,
    contents: Contents,
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plain")
    }
}

/// File id of the object that an area shows; `None` for private anonymous memory.
fn object_id(object: Object) -> Option<u32> {
    match object {
        Object::Anon | Object::Special => None,
        Object::FilePrivate(id) | Object::FileShared(id) => Some(id),
        // Segments count down from the top, unnamed objects up from 1.
        Object::Shm(n) if n > u32::MAX / 2 => Some(FIRST_SEGMENT_FILE + (u32::MAX - n)),
        Object::Shm(n) => Some(FIRST_UNNAMED + n - 1),
    }
}

fn is_shared(object: Object) -> bool {
    matches!(object, Object::FileShared(_) | Object::Shm(_))
}

/// The object page that an area shows at `va`.
fn object_page(area: &Area, va: u32) -> Option<ObjectPage> {
    let id = object_id(area.object)?;
    let bytes = area.offset + (u64::from(va) - area.start);
    Some((id, (bytes >> 12) as u32))
}

impl Contents {
    fn object(&self, page: ObjectPage) -> Words {
        if let Some(words) = self.objects.get(&page) {
            return words.clone();
        }
        match self.ends.get(&page.0).is_some_and(|end| page.1 >= *end) {
            true => Words::new(),
            false => synthetic_words(page.0, page.1)
                .filter(|w| w.1 != 0)
                .collect(),
        }
    }

    fn visible(&self, space: u32, area: Option<&Area>, page: u32) -> Words {
        match self.spaces.get(&space) {
            Some(s) if s.own.contains(&page) => s.page(page),
            _ => match area.and_then(|a| object_page(a, page)) {
                Some(object) => self.object(object),
                None => Words::new(),
            },
        }
    }

    fn byte(&self, space: u32, area: Option<&Area>, va: u32) -> u8 {
        let (page, offset) = (va & !0xfff, va & 0xfff);
        let private = || self.spaces.get(&space).filter(|s| s.own.contains(&page));
        let word = match area.and_then(|a| object_page(a, page)) {
            _ if private().is_some() => private()
                .and_then(|s| s.words.get(&(va & !3)).copied())
                .unwrap_or(0),
            Some(object) => match self.objects.get(&object) {
                Some(words) => words.get(&(offset & !3)).copied().unwrap_or(0),
                None => self
                    .object(object)
                    .get(&(offset & !3))
                    .copied()
                    .unwrap_or(0),
            },
            None => 0,
        };
        (word >> (8 * (va & 3))) as u8
    }

    /// Makes a page the space's own, as a write fault does.
    fn make_own(&mut self, space: u32, area: Option<&Area>, page: u32) {
        let known = self.spaces.get(&space);
        if known.is_some_and(|s| s.own.contains(&page)) {
            return;
        }
        let content = self.visible(space, area, page);
        let s = self.spaces.entry(space).or_default();
        s.own.insert(page);
        s.words
            .extend(content.into_iter().map(|(o, w)| (page + o, w)));
    }

    fn set_byte(&mut self, space: u32, area: Option<&Area>, va: u32, byte: u8) {
        let page = va & !0xfff;
        let shared = area.is_some_and(|a| is_shared(a.object));
        let words = match area.and_then(|a| object_page(a, page)) {
            Some(object) if shared => {
                if !self.objects.contains_key(&object) {
                    let content = self.object(object);
                    self.objects.insert(object, content);
                }
                set(self.objects.entry(object).or_default(), va & 0xfff, byte);
                return;
            }
            _ => {
                self.make_own(space, area, page);
                &mut self.spaces.entry(space).or_default().words
            }
        };
        set(words, va, byte);
    }
}

fn set(words: &mut BTreeMap<u32, u32>, at: u32, byte: u8) {
    let shift = 8 * (at & 3);
    let word = words.entry(at & !3).or_insert(0);
    *word = *word & !(0xff << shift) | u32::from(byte) << shift;
    if *word == 0 {
        words.remove(&(at & !3));
    }
}

impl Plain {
    /// At the start of `trace`.
    pub fn new(trace: &Trace, assumptions: Assumptions) -> Self {
        Self {
            replayer: Replayer::new(trace, assumptions),
            contents: Contents::default(),
        }
    }

    fn bytes(&self, va: u32, len: u16) -> Vec<u8> {
        let space = self.replayer.space_id();
        let mut area = None;
        (0..u32::from(len))
            .map(|i| {
                let at = va.wrapping_add(i);
                if i == 0 || at & 0xfff == 0 {
                    area = self.replayer.area(at);
                }
                self.contents.byte(space, area.as_ref(), at)
            })
            .collect()
    }

    fn store(&mut self, va: u32, bytes: impl Iterator<Item = u8>) {
        let space = self.replayer.space_id();
        let mut area = None;
        for (i, byte) in bytes.enumerate() {
            let at = va.wrapping_add(i as u32);
            if i == 0 || at & 0xfff == 0 {
                area = self.replayer.area(at);
            }
            self.contents.set_byte(space, area.as_ref(), at, byte);
        }
    }

    /// One step; `false` at the end of the trace.
    fn step(&mut self, mem: &mut PhysMem) -> Result<bool, String> {
        let step = match self.replayer.next(mem).map_err(|e| e.to_string())? {
            Next::Step(step) => step,
            Next::Pause(Pause::End) => return Ok(false),
            Next::Pause(_) => return Ok(true),
        };
        let pattern = |value: u64, len: u16| {
            let bytes = value.to_le_bytes();
            (0..usize::from(len)).map(move |i| bytes[i & 7])
        };
        match step {
            Step::Fetch { .. } | Step::Work(_) => self.replayer.done(0),
            Step::Load { va, len } => {
                let value = fold_bytes(self.bytes(va, len).into_iter());
                self.replayer.done(value);
            }
            Step::Store { va, len, value } => {
                self.store(va, pattern(value, len));
                self.replayer.done(0);
            }
            Step::Modify { va, len, value } => {
                let old = fold_bytes(self.bytes(va, len).into_iter());
                self.store(va, pattern(value, len));
                self.replayer.done(old);
            }
            Step::Call(_) | Step::Resched => self.enter(mem)?,
        }
        Ok(true)
    }

    fn enter(&mut self, mem: &mut PhysMem) -> Result<(), String> {
        let call = self.replayer.pending().cloned();
        let space = self.replayer.space_id();
        self.replayer.entered(mem);
        if let Some(call) = &call {
            self.call(space, call);
        }
        let next = self.replayer.next_pid();
        mailbox::update(mem, |m| m.current = next);
        let eax = call.as_ref().and_then(|c| c.expected).unwrap_or(0);
        self.replayer
            .returned(mem, Entry::Asked, eax)
            .map_err(|e| e.to_string())?;
        if let Some(Call::Fork { child } | Call::Vfork { child } | Call::Clone { child }) =
            call.map(|c| c.call)
            && let Some(born) = self.replayer.space_of(child)
            && born != space
        {
            let copy = self
                .contents
                .spaces
                .get(&space)
                .cloned()
                .unwrap_or_default();
            self.contents.spaces.insert(born, copy);
        }
        Ok(())
    }

    /// What a call changes in memory; the replayer's map of areas shows what is after it.
    fn call(&mut self, space: u32, m: &Marshalled) {
        let page_up = |x: u32| x.saturating_add(PAGE - 1) & !(PAGE - 1);
        match &m.call {
            Call::Munmap { addr, len } => {
                self.forget(space, *addr, page_up(addr.saturating_add(*len)))
            }
            Call::Mmap { result, len, .. } => {
                self.forget(space, *result, page_up(result.saturating_add(*len)));
            }
            Call::Madvise {
                addr,
                len,
                advice: Advice::DontNeed,
            } => self.forget(space, *addr, page_up(addr.saturating_add(*len))),
            Call::Brk { result, .. } => {
                let from = page_up(*result);
                let to = self
                    .replayer
                    .area_above(from)
                    .map_or(u32::MAX, |a| a.start as u32);
                self.forget(space, from, to);
            }
            Call::Mremap {
                old,
                old_len,
                new_len,
                result,
                ..
            } => {
                let (from, to) = (page_up(*old_len), page_up(*new_len));
                self.forget(
                    space,
                    old.saturating_add(to.min(from)),
                    old.saturating_add(from),
                );
                if result != old {
                    self.forget(space, *result, result.saturating_add(to));
                    let s = self.contents.spaces.entry(space).or_default();
                    let moved = s.take(*old, old.saturating_add(from));
                    let shift = |at: u32| at.wrapping_sub(*old).wrapping_add(*result);
                    s.words
                        .extend(moved.words.iter().map(|(a, w)| (shift(*a), *w)));
                    s.own.extend(moved.own.iter().map(|p| shift(*p)));
                }
            }
            // Locking brings pages in for writing where it may.
            Call::Mlock { addr, len } => {
                let end = page_up(addr.saturating_add(*len));
                for page in ((addr & !0xfff)..end).step_by(PAGE as usize) {
                    let Some(area) = self.replayer.area(page) else {
                        continue;
                    };
                    if matches!(area.object, Object::FilePrivate(_)) && area.prot.contains(Prot::RW)
                    {
                        self.contents.make_own(space, Some(&area), page);
                    }
                }
            }
            Call::Other { .. } if m.bytes_out != 0 => {
                let word = (self.replayer.operation() as u32 | 1).to_le_bytes();
                let bytes = (0..m.bytes_out as usize).map(|i| word.get(i).copied().unwrap_or(0));
                self.store(m.buffer, bytes);
            }
            Call::FileWrite {
                file,
                position,
                addr,
                len,
            } => {
                for i in 0..*len {
                    let from = addr.wrapping_add(i);
                    let area = self.replayer.area(from);
                    let byte = self.contents.byte(space, area.as_ref(), from);
                    let at = position + u64::from(i);
                    let object = (file.0, (at >> 12) as u32);
                    if !self.contents.objects.contains_key(&object) {
                        let content = self.contents.object(object);
                        self.contents.objects.insert(object, content);
                    }
                    let words = self.contents.objects.entry(object).or_default();
                    set(words, (at & 0xfff) as u32, byte);
                }
            }
            Call::Truncate { file, len } => {
                self.truncate(file.0, len.div_ceil(u64::from(PAGE)) as u32)
            }
            Call::Exec { .. } | Call::Exit {} => {}
            _ => {}
        }
    }

    fn forget(&mut self, space: u32, start: u32, end: u32) {
        if let Some(s) = self.contents.spaces.get_mut(&space) {
            s.forget(start, end);
        }
    }

    /// Pages from `first` on are gone, private copies of them too.
    fn truncate(&mut self, file: u32, first: u32) {
        self.contents
            .objects
            .retain(|at, _| at.0 != file || at.1 < first);
        let end = self.contents.ends.entry(file).or_insert(first);
        *end = first.min(*end);
        for living in self.replayer.living() {
            let Some(s) = self.contents.spaces.get_mut(&living.space) else {
                continue;
            };
            let gone: Vec<u32> = s
                .own
                .iter()
                .copied()
                .filter(|&page| {
                    let area = self.replayer.area_of(living.task, page);
                    area.and_then(|a| object_page(&a, page))
                        .is_some_and(|(id, index)| id == file && index >= first)
                })
                .collect();
            for page in gone {
                s.forget(page, page.saturating_add(PAGE));
            }
        }
    }

    /// Goes on to `position`. The mailbox is in memory of its own.
    fn reach(&mut self, position: Position, mem: &mut PhysMem) -> Result<(), String> {
        loop {
            // Queues the steps of the operation at hand.
            if let Next::Pause(Pause::End) = self.replayer.next(mem).map_err(|e| e.to_string())? {
                return Ok(());
            }
            if self.replayer.position() == position {
                return Ok(());
            }
            if self.replayer.position().operation > position.operation {
                return Err(format!("the plain model has passed {position:?}"));
            }
            self.step(mem)?;
        }
    }
}

/// Everything that a machine's processes can see and that is not as files were at first.
struct Seen {
    /// Private pages by space and address.
    private: BTreeMap<(u32, u32), Words>,
    /// Changed pages of objects.
    objects: BTreeMap<ObjectPage, Words>,
}

impl Machine {
    /// Compares what the processes see with the plain model, brought to where `replayer` stands. The error says what was lost.
    pub(crate) fn check_against(
        &self,
        plain: &mut Plain,
        replayer: &Replayer,
    ) -> Result<(), String> {
        let mut mem = PhysMem::new(MAILBOX_RAM, MAILBOX_RAM).map_err(|e| e.to_string())?;
        plain.reach(replayer.position(), &mut mem)?;
        let ended = replayer.operation() >= replayer.total();
        if ended && plain.replayer.load_sum() != replayer.load_sum() {
            return Err("processes have read other words than the plain model".to_owned());
        }
        let mut models = vec![plain.contents.clone()];
        let calling = plain.replayer.pending().is_some();
        if calling && !ended {
            let mut after = plain.clone();
            after.step(&mut mem)?;
            models.push(after.contents);
        }
        let seen = self.seen_by_processes(&plain.replayer);
        self.compare_private(plain, &models, &seen)?;
        compare_objects(plain, &models, &seen)
    }

    fn seen_by_processes(&self, replayer: &Replayer) -> Seen {
        let k = self.k;
        let mut seen = Seen {
            private: BTreeMap::new(),
            objects: BTreeMap::new(),
        };
        for living in replayer.living() {
            let task = guest_vm::task::find(k, pid(living.task));
            if task.is_null() || task.mm(k).is_null() {
                continue;
            }
            let stub = living.stack_top.saturating_sub(STUB_STACK_BYTES)..living.stack_top;
            self.each_private_page(task.mm(k), |page, words| {
                let words = words.filter(|(o, w)| *w != 0 && !stub.contains(&(page + o)));
                seen.private.insert((living.space, page), words.collect());
            });
        }
        self.each_changed_object_page(|file, index, words| {
            let words = words.filter(|(_, w)| *w != 0).collect();
            seen.objects.insert((file, index), words);
        });
        seen
    }

    fn compare_private(
        &self,
        plain: &Plain,
        models: &[Contents],
        seen: &Seen,
    ) -> Result<(), String> {
        for living in plain.replayer.living() {
            let stub = living.stack_top.saturating_sub(STUB_STACK_BYTES)..living.stack_top;
            let space = living.space;
            let mut pages: BTreeSet<u32> = seen
                .private
                .range((space, 0)..=(space, u32::MAX))
                .map(|(at, _)| at.1)
                .collect();
            for model in models {
                pages.extend(model.spaces.get(&space).iter().flat_map(|s| &s.own));
            }
            for page in pages {
                let area = plain.replayer.area_of(living.task, page);
                // An unmapping under way.
                if area.is_none() && models.len() > 1 {
                    continue;
                }
                let own = seen.private.get(&(space, page));
                let wanted = |model: &Contents| {
                    let mut words = match own {
                        Some(_) => model.visible(space, area.as_ref(), page),
                        // Nothing of its own: then the model must have nothing to lose.
                        None => model
                            .spaces
                            .get(&space)
                            .map_or_else(Words::new, |s| s.page(page)),
                    };
                    words.retain(|o, _| !stub.contains(&(page + o)));
                    words
                };
                let found = own.cloned().unwrap_or_default();
                if !models.iter().any(|model| wanted(model) == found) {
                    return Err(format!(
                        "page {page:#x} of task {}: {}",
                        pid(living.task),
                        in_words(&wanted(&models[0]), &found)
                    ));
                }
            }
        }
        Ok(())
    }
}

fn compare_objects(plain: &Plain, models: &[Contents], seen: &Seen) -> Result<(), String> {
    let alive: BTreeSet<u32> = plain
        .replayer
        .living()
        .flat_map(|l| plain.replayer.areas_of(l.task))
        .filter_map(|a| object_id(a.object))
        .collect();
    let mut pages: BTreeSet<ObjectPage> = seen.objects.keys().copied().collect();
    for model in models {
        pages.extend(model.objects.keys());
    }
    for page in pages {
        // Shared memory that nobody has any more.
        if page.0 >= SHMEM_FILES && !alive.contains(&page.0) {
            continue;
        }
        let found = match seen.objects.get(&page) {
            Some(words) => words.clone(),
            None => Contents {
                ends: models[0].ends.clone(),
                ..Contents::default()
            }
            .object(page),
        };
        if !models.iter().any(|model| model.object(page) == found) {
            return Err(format!(
                "page {} of object {:#x}: {}",
                page.1,
                page.0,
                in_words(&models[0].object(page), &found)
            ));
        }
    }
    Ok(())
}

/// The first word that differs.
fn in_words(wanted: &Words, found: &Words) -> String {
    let offsets: BTreeSet<u32> = wanted.keys().chain(found.keys()).copied().collect();
    let word = |words: &Words, o: u32| words.get(&o).copied().unwrap_or(0);
    let differs = offsets
        .into_iter()
        .find(|&o| word(wanted, o) != word(found, o));
    match differs {
        Some(o) => format!(
            "{:#010x} at byte {o:#x}, {:#010x} in the plain model",
            word(found, o),
            word(wanted, o)
        ),
        None => "no word differs".to_owned(),
    }
}

/// Task and address space of a living process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Living {
    /// The replayer's number of the address space.
    pub space: u32,
    /// One of its tasks.
    pub task: TaskId,
    /// Top of its stack.
    pub stack_top: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive_native::Stop;
    use crate::replay::{boot, preset};
    use emu_mmu::{Pfn, PhysAddr};
    use guest_vm::pgtable::Pte;
    use lowmem_report::Config;
    use lowmem_trace::TraceBuilder;

    /// One word of one page changed behind the kernel's back, wherever it is.
    #[test]
    fn a_changed_word_is_found() {
        let mut t = TraceBuilder::new("changed");
        let p = t.spawn();
        let private = t.on(p).mmap_anon(PAGE);
        let shared = t.on(p).mmap_shared(PAGE);
        t.on(p).write_pages(private, PAGE).write_pages(shared, PAGE);
        let trace = t.finish();
        let config = Config {
            ram_bytes: 24 << 20,
            ..Config::default()
        };
        let mut machine = boot(&config, &preset(&config).expect("a preset")).expect("it boots");
        let assumptions = Assumptions::default();
        let mut replayer = Replayer::new(&trace, assumptions);
        while !matches!(machine.run_native(&mut replayer), Stop::Pause(Pause::End)) {}
        let check = |m: &Machine| m.check_against(&mut Plain::new(&trace, assumptions), &replayer);
        check(&machine).expect("nothing is lost");
        for va in [private, shared] {
            let mut frame = None;
            let mm = guest_vm::task::find(machine.k, 1).mm(machine.k);
            machine.each_pte(mm, |at, pte: Pte, _| {
                if at == va {
                    frame = Some(Pfn(pte.pfn()));
                }
            });
            let at = PhysAddr(frame.expect("it is mapped").base().0 + 8);
            machine.mem_mut().write_u32(at, 1);
            let lost = check(&machine).expect_err("a word too many");
            assert!(lost.contains("at byte 0x8"), "{lost}");
            machine.mem_mut().write_u32(at, 0);
        }
    }
}
