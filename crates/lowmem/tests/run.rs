//! `lowmem run` as its user sees it: tiny images, made here, through the command.

use iced_x86::code_asm::*;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Where images are loaded.
const LOAD: u32 = 0x10_0000;
/// Bytes of a multiboot header with address fields.
const HEADER: u32 = 32;
const CODE: u32 = LOAD + HEADER;

/// A directory with one image in it.
struct Image {
    dir: tempfile::TempDir,
}

impl Image {
    fn new(bytes: &[u8]) -> Image {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("image"), bytes).unwrap();
        Image { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_lowmem"))
            .arg("run")
            .arg(self.path())
            .args(args)
            .output()
            .unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let out = self.run(&[args, &["--json"]].concat());
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(&out)))
    }
}

fn stdout(out: &Output) -> String {
    String::from_utf8(out.stdout.clone()).unwrap()
}
fn stderr(out: &Output) -> String {
    String::from_utf8(out.stderr.clone()).unwrap()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// A multiboot image with address fields, entered at its first byte of code.
fn multiboot(code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Image {
    let mut a = CodeAssembler::new(32).unwrap();
    code(&mut a).unwrap();
    let code = a.assemble(CODE.into()).unwrap();
    let (magic, flags) = (0x1bad_b002u32, 1u32 << 16);
    let sum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let mut image = words(&[magic, flags, sum, LOAD, LOAD, 0, 0, CODE]);
    image.extend(code);
    Image::new(&image)
}

/// Offset of an interrupt handler in a ROM.
const HANDLER: i32 = 0x2000;

/// A ROM of 64 KB whose code starts at F000:0000.
fn rom(code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Image {
    rom_with(|_| Ok(()), code)
}

/// The same with an interrupt handler.
fn rom_with(
    handler_code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Image {
    let mut handler = CodeAssembler::new(16).unwrap();
    handler_code(&mut handler).unwrap();
    let mut a = CodeAssembler::new(16).unwrap();
    code(&mut a).unwrap();
    let mut image = a.assemble(0).unwrap();
    image.resize(0x1_0000, 0xf4);
    let handler = handler.assemble(HANDLER as u64).unwrap();
    image[HANDLER as usize..][..handler.len()].copy_from_slice(&handler);
    // jmp f000:0000
    image[0xfff0..0xfff5].copy_from_slice(&[0xea, 0, 0, 0, 0xf0]);
    Image::new(&image)
}

/// An ELF executable with the given program headers: (type, offset, address, in file, in memory).
fn elf(entry: u32, headers: &[(u32, u32, u32, u32, u32)], content: &[u8]) -> Vec<u8> {
    let mut out = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend([2, 0, 3, 0]);
    out.extend(words(&[1, entry, 52, 0, 0]));
    for half in [52u16, 32, headers.len() as u16, 40, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    assert_eq!(out.len(), 52);
    for &(kind, offset, at, in_file, in_memory) in headers {
        out.extend(words(&[kind, offset, at, at, in_file, in_memory, 7, 4096]));
    }
    out.extend(content);
    out
}

fn print(a: &mut CodeAssembler, port: i32, text: &str) -> Result<(), IcedError> {
    a.mov(edx, port)?;
    for c in text.bytes() {
        a.mov(al, i32::from(c))?;
        a.out(dx, al)?;
    }
    Ok(())
}

fn exit(a: &mut CodeAssembler, value: i32) -> Result<(), IcedError> {
    a.mov(al, value)?;
    a.out(0xf4, al)
}

#[test]
fn hello_by_multiboot_with_what_the_loader_promises() {
    let image = multiboot(|a| {
        let mut bad = a.create_label();
        a.cmp(eax, 0x2bad_b002u32)?;
        a.jne(bad)?;
        // Flags of the information structure, its lower and upper memory, the map's second entry.
        a.cmp(dword_ptr(ebx), 0x241)?;
        a.jne(bad)?;
        a.cmp(dword_ptr(ebx + 4), 640)?;
        a.jne(bad)?;
        a.cmp(dword_ptr(ebx + 8), 15 << 10)?;
        a.jne(bad)?;
        a.mov(esi, dword_ptr(ebx + 48))?;
        a.cmp(dword_ptr(esi + 24 + 4), 0xa_0000)?;
        a.jne(bad)?;
        print(a, 0x3f8, "hello\n")?;
        print(a, 0xe9, "there\n")?;
        exit(a, 3)?;
        a.set_label(&mut bad)?;
        exit(a, 1)
    });
    let out = image.run(&["--ram", "16M"]);
    assert_eq!(out.status.code(), Some(7), "{}", stderr(&out));
    assert_eq!(stdout(&out), "hello\n");
    let report = stderr(&out);
    assert!(
        report.contains("(multiboot): ended by port F4, status 7"),
        "{report}"
    );
    assert!(
        report.contains("6 bytes of the other console not shown"),
        "{report}"
    );
    assert!(report.contains("cycles on pentium4: base "), "{report}");
    assert_eq!(
        stdout(&image.run(&["--ram", "16M", "--console", "both"])),
        "hello\nthere\n"
    );
    assert_eq!(
        stdout(&image.run(&["--ram", "16M", "--console", "e9"])),
        "there\n"
    );
    let none = image.run(&["--ram", "16M", "--cpu", "none"]);
    assert!(!stderr(&none).contains("cycles"), "{}", stderr(&none));
}

#[test]
fn hello_by_elf_ended_by_port_8900() {
    let mut a = CodeAssembler::new(32).unwrap();
    print(&mut a, 0xe9, "elf\n").unwrap();
    print(&mut a, 0x8900, "Shutdown").unwrap();
    let code = a.assemble(u64::from(LOAD)).unwrap();
    let n = code.len() as u32;
    // A segment of zeroes only, and one without any size, load nothing.
    let headers = [
        (1, 52 + 3 * 32, LOAD, n, n + 16),
        (1, 0, 0x20_0000, 0, 4096),
        (1, 0, LOAD, 0, 0),
    ];
    let image = Image::new(&elf(LOAD, &headers, &code));
    let out = image.run(&[]);
    assert_eq!(
        (out.status.code(), stdout(&out)),
        (Some(0), "elf\n".to_owned())
    );
}

#[test]
fn a_rom_runs_in_real_mode_and_keeps_what_is_written_to_it() {
    let image = rom(|a| {
        a.mov(ax, 0xf000)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        // Writes of every kind: byte, across pages, repeated.
        a.mov(byte_ptr(bx + 0x4000), 1)?;
        a.mov(dword_ptr(0x4ffe).ds(), 0x0101_0101)?;
        a.mov(di, 0x5000)?;
        a.mov(cx, 100)?;
        a.mov(al, 1)?;
        a.rep().stosb()?;
        a.mov(al, byte_ptr(bx + 0x4000))?;
        a.cmp(al, 0xf4)?;
        let mut bad = a.create_label();
        a.jne(bad)?;
        a.cmp(dword_ptr(0x4ffe).ds(), 0xf4f4_f4f4u32 as i32)?;
        a.jne(bad)?;
        a.cmp(byte_ptr(0x5063).ds(), 0xf4)?;
        a.jne(bad)?;
        // RAM below can be written.
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(word_ptr(0x500).ds(), 0x5aa5)?;
        a.cmp(word_ptr(0x500).ds(), 0x5aa5)?;
        a.jne(bad)?;
        for c in b"rom\n" {
            a.mov(al, i32::from(*c))?;
            a.out(0xe9, al)?;
        }
        a.mov(al, 0x42)?;
        a.out(0x80, al)?;
        a.cli()?;
        a.hlt()?;
        a.set_label(&mut bad)?;
        exit(a, 0)
    });
    for engine in ["fast", "reference"] {
        let out = image.run(&["--engine", engine, "--post"]);
        assert_eq!(stdout(&out), "rom\n");
        assert_eq!(out.status.code(), Some(6), "{}", stderr(&out));
        assert!(stderr(&out).starts_with("post 42\n"));
        assert!(stderr(&out).contains("halted with nothing to wake up for"));
    }
}

/// Ten timer interrupts, by hlt; then the line is masked and hlt is the end.
#[test]
fn the_timer_interrupts_hlt() {
    let handler = |a: &mut CodeAssembler| {
        a.inc(bx)?;
        a.mov(al, 0x20)?;
        a.out(0x20, al)?;
        a.iret()
    };
    let image = rom_with(handler, |a| {
        let mut again = a.create_label();
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(ss, ax)?;
        a.mov(sp, 0x7c00)?;
        a.mov(word_ptr(0x20).ds(), HANDLER)?;
        a.mov(word_ptr(0x22).ds(), 0xf000)?;
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 8),
            (0x21, 4),
            (0x21, 1),
            (0x43, 0x34),
            (0x40, 0xa9),
            (0x40, 0x04),
        ] {
            a.mov(al, value)?;
            a.out(port, al)?;
        }
        a.xor(bx, bx)?;
        a.sti()?;
        a.set_label(&mut again)?;
        a.hlt()?;
        a.cmp(bx, 10)?;
        a.jb(again)?;
        a.mov(al, 0xff)?;
        a.out(0x21, al)?;
        a.hlt()?;
        exit(a, 0)
    });
    let r = image.json(&[]);
    assert_eq!(r["outcome"], "halted");
    assert_eq!(r["registers"]["ebx"], 10);
    assert_eq!(
        (&r["interrupts"], &r["timer_edges"]),
        (&10.into(), &10.into())
    );
    // Ten periods of 1193 clocks, at the preset's 1.2 thousand million instructions a second, less what was executed.
    let skipped = r["skipped_instructions"].as_u64().unwrap();
    let executed = r["instructions"].as_u64().unwrap();
    assert_eq!(executed, 96);
    let per_second = (skipped + executed) * 1_193_182 / 11_930;
    assert!(
        (1_100_000_000..1_600_000_000).contains(&per_second),
        "{per_second}"
    );
    assert_eq!(r, image.json(&["--engine", "reference"]));
}

#[test]
fn a_triple_fault_ends_with_the_registers() {
    let image = multiboot(|a| {
        a.mov(eax, 0x1234_5678)?;
        a.ud2()
    });
    let out = image.run(&[]);
    assert_eq!(out.status.code(), Some(4));
    let report = stderr(&out);
    assert!(report.contains("triple fault"), "{report}");
    assert!(report.contains("eax 12345678"), "{report}");
    assert!(
        report.contains(&format!("eip {:08x}", CODE + 5)),
        "{report}"
    );
    assert!(report.contains("not be delivered: 0x6, "), "{report}");
}

#[test]
fn a_run_can_be_limited_and_stopped() {
    let image = multiboot(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.inc(eax)?;
        a.nop()?;
        a.jmp(top)
    });
    let r = image.json(&["--max-instructions", "1000000"]);
    assert_eq!(
        (&r["outcome"], &r["status"]),
        (&"max_instructions".into(), &8.into())
    );
    let n = r["instructions"].as_u64().unwrap();
    assert!((1_000_000..1_000_003).contains(&n), "{n}");
    assert_eq!(
        image.run(&["--max-instructions", "0"]).status.code(),
        Some(8)
    );
    let r = image.json(&["--stop-at", &format!("{:#x}", CODE + 1)]);
    assert_eq!(
        (&r["outcome"], &r["instructions"]),
        (&"stop_at".into(), &1.into())
    );
    assert_eq!(r["status"], 10);
    let out = image.run(&["--stop-at", "somewhere"]);
    assert_eq!(out.status.code(), Some(2));
}

/// A string instruction over 4 GiB, most of it where nothing is, is limited like any loop.
#[test]
fn long_string_instructions_are_limited_too() {
    let image = multiboot(|a| {
        a.mov(ecx, -1)?;
        a.mov(esi, 0x100)?;
        a.rep().lodsb()?;
        exit(a, 0)
    });
    let run = |engine| image.json(&["--max-instructions", "1000000", "--engine", engine]);
    let r = run("fast");
    assert_eq!(
        (&r["outcome"], &r["instructions"]),
        (&"max_instructions".into(), &2.into())
    );
    let loops = r["rep_iterations"].as_u64().unwrap();
    assert!((999_998..999_998 + 65_536).contains(&loops), "{loops}");
    assert_eq!(r, run("reference"));
}

/// #UD whose handler is undefined: silicon would go on for ever.
#[test]
fn faults_without_an_instruction_between_them_end_a_run() {
    let undefined = |a: &mut CodeAssembler| a.ud2();
    let image = rom_with(undefined, |a| {
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        // A stack that never reaches the vectors.
        a.mov(cx, 0x1000)?;
        a.mov(ss, cx)?;
        a.mov(word_ptr(0x18).ds(), HANDLER)?;
        a.mov(word_ptr(0x1a).ds(), 0xf000)?;
        a.ud2()
    });
    for engine in ["fast", "reference"] {
        let out = image.run(&["--engine", engine]);
        assert_eq!(out.status.code(), Some(14), "{}", stderr(&out));
    }
}

#[test]
fn where_nothing_is_ones_are_read() {
    let image = multiboot(|a| {
        let mut bad = a.create_label();
        a.mov(dx, 0x1234)?;
        a.in_(eax, dx)?;
        a.cmp(eax, -1)?;
        a.jne(bad)?;
        a.mov(dword_ptr(0xd000_0000u32), 0)?;
        a.cmp(dword_ptr(0xd000_0000u32), -1)?;
        a.jne(bad)?;
        // The last bytes of RAM and the first behind it.
        a.mov(dword_ptr(0xff_fffe), 0x1111_1111)?;
        a.cmp(dword_ptr(0xff_fffe), 0xffff_1111u32 as i32)?;
        a.jne(bad)?;
        exit(a, 1)?;
        a.set_label(&mut bad)?;
        exit(a, 0)
    });
    for engine in ["fast", "reference"] {
        let out = image.run(&["--ram", "16M", "--engine", engine]);
        assert_eq!(out.status.code(), Some(3), "{}", stderr(&out));
    }
}

#[test]
fn every_instruction_is_a_line_of_the_trace() {
    let image = multiboot(|a| {
        a.mov(eax, 0x31)?;
        a.out(0xf4, al)
    });
    let out = image.run(&["--trace-exec", "--cpu", "none"]);
    assert_eq!(out.status.code(), Some(99));
    let report = stderr(&out);
    let lines: Vec<&str> = report.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>().join(" "),
        "0008:00100020 00100020 b8 31 00 00 00 mov eax, 0x31 ; eax=00000031"
    );
    assert!(lines[1].ends_with("out 0xf4, al"), "{}", lines[1]);
    let file = image.dir.path().join("trace");
    let out = image.run(&[&format!("--trace-exec={}", file.display())]);
    assert_eq!(out.status.code(), Some(99));
    assert_eq!(std::fs::read_to_string(file).unwrap().lines().count(), 2);
}

#[test]
fn input_waits_on_the_serial_line_and_the_clock_shows_what_is_asked() {
    let image = multiboot(|a| {
        let (mut next, mut done) = (a.create_label(), a.create_label());
        a.set_label(&mut next)?;
        a.mov(edx, 0x3fd)?;
        a.in_(al, dx)?;
        a.test(al, 1)?;
        a.jz(done)?;
        a.mov(edx, 0x3f8)?;
        a.in_(al, dx)?;
        a.xor(al, 0x20)?;
        a.out(dx, al)?;
        a.jmp(next)?;
        a.set_label(&mut done)?;
        a.mov(al, 4)?;
        a.out(0x70, al)?;
        a.in_(al, 0x71)?;
        a.out(0xf4, al)
    });
    let input = image.dir.path().join("input");
    std::fs::write(&input, "Echo").unwrap();
    let out = image.run(&[
        "--serial-in",
        input.to_str().unwrap(),
        "--rtc",
        "1999-12-31T23:59:59",
    ]);
    assert_eq!(
        (stdout(&out), out.status.code()),
        ("eCHO".to_owned(), Some(0x47))
    );
    let out = image.run(&["--rtc", "yesterday"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(
        stderr(&out).contains("is not a time such as"),
        "{}",
        stderr(&out)
    );
}

#[test]
fn bad_images_are_refused_by_name_and_place() {
    let nops = [0x90u8; 64];
    let good = |n: u32| vec![(1, 52 + 32, LOAD, n, n)];
    let mut truncated = elf(LOAD, &good(64), &nops);
    truncated.truncate(52 + 32 + 10);
    let mut no_table = elf(LOAD, &good(64), &nops);
    no_table[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut class64 = elf(LOAD, &good(64), &nops);
    class64[4] = 2;
    let mut shared = elf(LOAD, &good(64), &nops);
    shared[16] = 3;
    let multiboot = |words_: [u32; 8]| {
        let mut w = words_;
        w[2] = 0u32.wrapping_sub(w[0]).wrapping_sub(w[1]);
        [words(&w), nops.to_vec()].concat()
    };
    let magic = 0x1bad_b002;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "neither a multiboot image"),
        (
            "text",
            b"hello, world".to_vec(),
            "it has 12 bytes and begins with [68, 65, 6c, 6c]",
        ),
        (
            "half an elf header",
            b"\x7fELF\x01\x01".to_vec(),
            "elf header: the file ends after 6 bytes",
        ),
        ("64 bits", class64, "a 64-bit file"),
        ("position-independent", shared, "position-independent"),
        (
            "truncated",
            truncated,
            "program header 0 at offset 0x34: bytes 0x54 to 0x94 lie outside the file of 0x5e bytes",
        ),
        (
            "table outside",
            no_table,
            "program header 0 at offset 0xffffffff: lies outside the file",
        ),
        (
            "overlap",
            elf(
                LOAD,
                &[(1, 116, LOAD, 64, 64), (1, 116, LOAD + 63, 4, 4)],
                &nops,
            ),
            "0x100000 to 0x100040 overlaps what is loaded at 0x10003f",
        ),
        (
            "outside ram",
            elf(
                LOAD,
                &[(1, 116, LOAD, 64, 64), (1, 116, 0xff_fff0, 64, 64)],
                &nops,
            ),
            "lies outside the ram of 0x1000000 bytes",
        ),
        (
            "wraps",
            elf(
                LOAD,
                &[(1, 116, LOAD, 64, 64), (1, 116, 0xffff_fff0, 64, 64)],
                &nops,
            ),
            "reach beyond 4 GiB",
        ),
        (
            "entry outside",
            elf(LOAD + 64, &good(64), &nops),
            "the entry 0x100040 lies outside",
        ),
        (
            "more in file",
            elf(LOAD, &[(1, 84, LOAD, 64, 10)], &nops),
            "0x40 bytes in the file, only 0xa",
        ),
        (
            "offset overflows",
            elf(LOAD, &[(1, u32::MAX, LOAD, u32::MAX, u32::MAX)], &nops),
            "reach beyond",
        ),
        (
            "nothing to load",
            elf(LOAD, &[(1, 84, LOAD, 0, 0)], &nops),
            "nothing in it is to be loaded",
        ),
        (
            "interpreter",
            elf(LOAD, &[(3, 84, LOAD, 4, 4)], &nops),
            "wants an interpreter",
        ),
        (
            "video",
            multiboot([magic, 1 << 16 | 4, 0, LOAD, LOAD, 0, 0, CODE]),
            "requires a video mode",
        ),
        (
            "unknown flag",
            multiboot([magic, 1 << 16 | 0x80, 0, LOAD, LOAD, 0, 0, CODE]),
            "flags 0x80",
        ),
        (
            "no addresses",
            multiboot([magic, 0, 0, LOAD, LOAD, 0, 0, CODE]),
            "has no address fields",
        ),
        (
            "before the file",
            multiboot([magic, 1 << 16, 0, LOAD + 1, LOAD, 0, 0, CODE]),
            "before the file's",
        ),
        (
            "load_end",
            multiboot([magic, 1 << 16, 0, LOAD, LOAD, LOAD - 1, 0, CODE]),
            "is below load_addr",
        ),
        (
            "too much",
            multiboot([magic, 1 << 16, 0, LOAD, LOAD, LOAD + 4096, 0, CODE]),
            "asks for 0x1000 bytes",
        ),
        (
            "bss_end",
            multiboot([magic, 1 << 16, 0, LOAD, LOAD, 0, LOAD + 8, CODE]),
            "bss_end_addr",
        ),
        (
            "entry far",
            multiboot([magic, 1 << 16, 0, LOAD, LOAD, 0, 0, 0]),
            "the entry 0x0 lies outside",
        ),
    ];
    for (name, bytes, message) in cases {
        let image = Image::new(&bytes);
        let out = image.run(&["--ram", "16M"]);
        assert_eq!(out.status.code(), Some(2), "{name}: {}", stderr(&out));
        assert!(stderr(&out).contains(message), "{name}: {}", stderr(&out));
        assert!(stderr(&out).contains("image: "), "{name} names no file");
    }
    let rom = Image::new(&[0xf4; 65_536]);
    for (args, message) in [
        (["--format", "elf"], "no 7f 45 4c 46"),
        (["--format", "multiboot"], "no multiboot header"),
        (
            ["--ram", "4G"],
            "ram of 0x100000000 bytes reaches into the rom at 0xffff0000",
        ),
        (["--ram", "12"], "not a whole number of pages"),
        (["--ram", "much"], "not a size"),
        (["--cpu", "i486"], "i486"),
    ] {
        let out = rom.run(&args);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {}", stderr(&out));
        assert!(stderr(&out).contains(message), "{args:?}: {}", stderr(&out));
    }
    let image = Image::new(b"1234");
    let out = image.run(&["--format", "rom"]);
    assert!(stderr(&out).contains("a rom has 65536 or 131072 bytes, this file 4"));
    let out = Command::new(env!("CARGO_BIN_EXE_lowmem"))
        .args(["run", "/nonexistent/image"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
}
