//! The README's table is what its command makes today.

use lowmem_benches::table::{markdown, split};

#[test]
fn the_table_of_the_readme_is_what_the_benchmarks_measure() {
    let readme = include_str!("../../README.md");
    let (_, table, _) = split(readme).expect("the README has the table's marker lines");
    assert_eq!(table, markdown().expect("every scenario runs"));
}
