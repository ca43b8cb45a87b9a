//! What a completed call changes in the replayer's own books: which address spaces there are and who uses them, which pages
//! may be touched again or serve as a call's buffer.
//!
//! Invariant: a space's `users` is the number of its `tasks`.

use super::{Replayer, Space, Task, fold_loads, pid};
use lowmem_trace::{Advice, Call, Prot, TaskId, Vfork};

impl Replayer {
    /// What a call changes in the replayer's own books.
    pub(super) fn effects(&mut self, call: &Call) {
        let mm = self.task().mm;
        match call {
            Call::Munmap { addr, len } => self.forget(mm, *addr, *len),
            Call::Mprotect { addr, len, prot } if *prot == Prot::NONE => {
                self.forget(mm, *addr, *len)
            }
            Call::Mremap { old, old_len, .. } => self.forget(mm, *old, *old_len),
            Call::Madvise {
                addr,
                len,
                advice: Advice::DontNeed,
            } => self.forget(mm, *addr, *len),
            Call::Brk { result, .. } => {
                // Pages above the new end, up to the next mapping.
                if let Some(space) = self.model.mm(self.current) {
                    let start = (*result + 0xfff) & !0xfff;
                    let end = space
                        .space
                        .above(u64::from(start).saturating_sub(1))
                        .map_or(start, |a| a.start as u32);
                    self.forget(mm, start, end.saturating_sub(start));
                }
            }
            Call::Mmap {
                flags, result, len, ..
            } if flags.contains(lowmem_trace::MapFlags::FIXED) => self.forget(mm, *result, *len),
            Call::RemapFilePages { addr, len, .. } => self.forget(mm, *addr, *len),
            Call::Shmdt { addr } => self.forget(mm, *addr, 4096),
            Call::Fork { child } => self.birth(*child, Sharing::Copy),
            Call::Vfork { child } => self.birth(
                *child,
                match self.assumptions.vfork {
                    Vfork::Share => Sharing::Share,
                    Vfork::Fork => Sharing::Copy,
                },
            ),
            Call::Clone { child } => self.birth(*child, Sharing::Share),
            Call::Exec { image } => {
                self.leave_space();
                let owner = pid(self.current);
                self.spaces.push(Space {
                    owner,
                    stack_top: image.stack_top,
                    users: 1,
                    tasks: vec![self.current.0],
                    written: Vec::new(),
                });
                let mm = self.spaces.len() - 1;
                let task = self.task_mut();
                task.mm = mm;
                task.retouch.clear();
                task.stack = image.stack_top;
                task.ip = crate::call::exec_entry(image);
            }
            Call::Exit {} => {
                self.leave_space();
                let pid = pid(self.current);
                if let Some(task) = self.tasks[self.current.index()].take() {
                    self.load_sum = self.load_sum.wrapping_add(fold_loads(pid, task.loads));
                }
            }
            _ => {}
        }
    }

    fn leave_space(&mut self) {
        let current = self.current.0;
        let mm = self.task().mm;
        let space = &mut self.spaces[mm];
        space.users -= 1;
        space.tasks.retain(|&t| t != current);
    }

    fn birth(&mut self, child: TaskId, sharing: Sharing) {
        let parent = self.task().clone();
        let mm = match sharing {
            Sharing::Share => {
                let space = &mut self.spaces[parent.mm];
                space.users += 1;
                space.tasks.push(child.0);
                parent.mm
            }
            Sharing::Copy => {
                let written = self.spaces[parent.mm].written.clone();
                self.spaces.push(Space {
                    owner: pid(child),
                    stack_top: self.spaces[parent.mm].stack_top,
                    users: 1,
                    tasks: vec![child.0],
                    written,
                });
                self.spaces.len() - 1
            }
        };
        self.tasks[child.index()] = Some(Task {
            ip: parent.ip,
            stack: parent.stack,
            ..Task::new(mm)
        });
    }

    fn forget(&mut self, mm: usize, start: u32, len: u32) {
        let end = start.saturating_add(len.saturating_add(0xfff) & !0xfff);
        for &t in &self.spaces[mm].tasks {
            if let Some(task) = &mut self.tasks[t as usize] {
                task.retouch.forget(start, end);
            }
        }
        self.spaces[mm].written.retain(|&p| p < start || p >= end);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Copy,
    Share,
}
