//! `valgrind --tool=lackey --trace-mem=yes --trace-syscalls=yes`: every reference of every process.
//!
//! One file per process, system calls in order among the references, no times. [`parse`] reads a file, [`image`] infers what
//! exec had mapped (no record says it), and this module interleaves the processes: a child runs, to its end, when its parent first waits
//! for it or has exited, in order of the forks. That is *a* possible order, the only one the files allow to be stated; pipes
//! between siblings flow from earlier to later ones.
//!
//! Left out: threads (lackey serialises them without saying which), exec inside a recorded process, signals.
//!
//! Invariant: each reference of the files is one operation (more only if it is longer than 255 bytes).

mod image;
mod parse;

use std::collections::{BTreeMap, VecDeque};

use parse::{Marker, Process};

use super::input::Text;
use crate::{
    error::TraceError,
    format::TraceWriter,
    header::{FileInfo, Header, TaskInfo, TraceKind},
    op::{Call, Op, SliceEnd, TaskId},
    trace::Trace,
};

/// Imports the files of one recording.
pub(super) fn import(
    name: &str,
    texts: Vec<Text>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Trace, TraceError> {
    let mut header = Header::new(name, TraceKind::EveryReference);
    let mut processes: BTreeMap<u32, Process> = BTreeMap::new();
    for text in texts {
        header.inputs.push(text.input.clone());
        let process = parse::parse(&text)?;
        if let Some(other) = processes.insert(process.pid, process) {
            return Err(TraceError::Inputs(format!(
                "{}: a second file of process {}; lackey was run without %p, or the program called exec",
                text.name, other.pid
            )));
        }
    }
    let children: Vec<u32> = processes
        .values()
        .flat_map(|p| p.markers.iter())
        .filter_map(|(_, m)| m.child())
        .collect();
    let roots: Vec<u32> = processes
        .keys()
        .copied()
        .filter(|pid| !children.contains(pid))
        .collect();
    let [root] = roots[..] else {
        return Err(TraceError::Inputs(format!(
            "{name}: one process must be the ancestor of all others, but {roots:?} have no parent here: a file is missing"
        )));
    };
    if let Some(missing) = children.iter().find(|c| !processes.contains_key(c)) {
        return Err(TraceError::Inputs(format!(
            "{name}: process {missing} was forked, but its file is missing"
        )));
    }
    totals(&mut header, &processes);
    let files = processes.values().map(|p| p.files).max().unwrap_or(0);
    let program = processes[&root].command.clone();
    let image = image::infer(&program, &processes, root)?;
    header.files.push(FileInfo {
        path: program,
        pages: image.file_pages,
        ..FileInfo::default()
    });
    for fd in 0..files {
        // A mapped descriptor is all that lackey shows of a file.
        header.files.push(FileInfo {
            path: format!("descriptor {fd}"),
            ..FileInfo::default()
        });
    }
    header.notes.push(
        "the image of exec was inferred from the pages touched below the heap: data and bss are one file mapping".to_owned(),
    );
    if processes.len() > 1 {
        header.notes.push(
            "a child runs when its parent first waits for it: lackey has no times".to_owned(),
        );
    }
    let total = processes.values().map(|p| p.ops.len() as u64).sum();
    // Tasks in the order in which the processes are born.
    let mut run = Run {
        writer: None,
        processes,
        task: BTreeMap::new(),
        done: 0,
        total,
        progress,
    };
    run.number(root, &mut header);
    let mut writer = TraceWriter::new(header);
    writer.push(
        &Call::Exec {
            image: Box::new(image.exec),
        }
        .into(),
    )?;
    run.writer = Some(writer);
    run.process(root, None)?;
    run.writer.take().expect("set above").finish()
}

fn totals(header: &mut Header, processes: &BTreeMap<u32, Process>) {
    let counts = &mut header.totals.counts;
    for p in processes.values() {
        for (key, value) in &p.counts {
            counts.insert(format!("{}.{key}", p.pid), *value);
            if !matches!(*key, "pages" | "code_pages" | "written_pages" | "addr_hi") {
                *counts.entry((*key).to_owned()).or_default() += value;
            }
        }
    }
    counts.insert("processes".to_owned(), processes.len() as u64);
    counts.insert("forks".to_owned(), processes.len() as u64 - 1);
    counts.insert("exits".to_owned(), processes.len() as u64);
}

/// The interleaving.
struct Run<'a> {
    writer: Option<TraceWriter>,
    processes: BTreeMap<u32, Process>,
    task: BTreeMap<u32, TaskId>,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Run<'_> {
    /// Gives a process and its descendants their tasks.
    fn number(&mut self, pid: u32, header: &mut Header) {
        let task = TaskId(header.tasks.len() as u32);
        let p = &self.processes[&pid];
        header.tasks.push(TaskInfo {
            name: p.comm(),
            pid,
            tid: pid,
        });
        self.task.insert(pid, task);
        let children: Vec<u32> = p.markers.iter().filter_map(|(_, m)| m.child()).collect();
        children.into_iter().for_each(|c| self.number(c, header));
    }

    fn push(&mut self, op: &Op) -> Result<(), TraceError> {
        self.done += 1;
        if self.done.is_multiple_of(1 << 18) {
            (self.progress)(self.done, self.total);
        }
        self.writer.as_mut().expect("a run has a writer").push(op)
    }

    /// Runs a process to its end; `back` is the waiting parent.
    fn process(&mut self, pid: u32, back: Option<u32>) -> Result<(), TraceError> {
        let process = self.processes.get_mut(&pid).expect("children were checked");
        let ops = std::mem::take(&mut process.ops);
        let mut markers = std::mem::take(&mut process.markers).into_iter().peekable();
        let mut not_run: VecDeque<u32> = VecDeque::new();
        for (index, op) in ops.iter().enumerate() {
            match markers.next_if(|(at, _)| *at == index) {
                None => self.push(op)?,
                Some((_, Marker::Fork { child })) => {
                    self.push(
                        &Call::Fork {
                            child: self.task[&child],
                        }
                        .into(),
                    )?;
                    not_run.push_back(child);
                }
                Some((_, Marker::Wait)) => match not_run.pop_front() {
                    Some(child) => {
                        self.switch(child, SliceEnd::Sleep)?;
                        self.process(child, Some(pid))?;
                        self.push(
                            &Call::Wait {
                                child: self.task[&child],
                            }
                            .into(),
                        )?;
                    }
                    None => self.push(op)?,
                },
            }
        }
        if !matches!(ops.last(), Some(Op::Call(c)) if **c == Call::Exit {}) {
            self.push(&Call::Exit {}.into())?;
        }
        // Children nobody waited for run now; the last of them goes back to the waiting ancestor.
        while let Some(child) = not_run.pop_front() {
            self.switch(child, SliceEnd::Exit)?;
            self.process(child, None)?;
        }
        if let Some(parent) = back {
            self.switch(parent, SliceEnd::Exit)?;
        }
        Ok(())
    }

    fn switch(&mut self, to: u32, how: SliceEnd) -> Result<(), TraceError> {
        let to = self.task[&to];
        self.push(&Op::Switch { to, how })
    }
}
