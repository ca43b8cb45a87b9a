//! The traces of the repository are whole and are what their README says.

use std::path::Path;

use lowmem_trace::Trace;

#[test]
fn shipped_traces_pass_their_checks_and_are_listed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../traces");
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut n = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "lmt") {
            let trace = Trace::open(&path).unwrap();
            trace.check(|_| {}).unwrap();
            assert_eq!(path.file_stem().unwrap().to_str(), Some(trace.name()));
            assert!(
                readme.contains(&trace.sha256_hex()),
                "{} is not listed",
                path.display()
            );
            for input in &trace.header().inputs {
                let line = format!("{}  {}", input.sha256, input.name);
                assert!(readme.contains(&line), "{line} is not listed");
            }
            n += 1;
        }
    }
    assert_eq!(n, 6);
}
