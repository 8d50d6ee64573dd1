//! `table.txt`, read; and the table of it that `docs/security.md` has.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Attempts that the same things stop.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) stops: &'static str,
    pub(super) attempts: Vec<Attempt>,
}

pub(super) struct Attempt {
    pub(super) name: &'static str,
    pub(super) free: Free,
    /// What it may come to in a task.
    pub(super) refused: Vec<&'static str>,
    /// In Python; or the test's own name for it, [`Free::Test`].
    pub(super) program: &'static str,
}

/// Where nothing stops the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Free {
    Kernel,
    Host,
    Victim,
    Elsewhere,
    Nowhere,
    Test,
}

const FREE: [(&str, Free); 6] = [
    ("kernel", Free::Kernel),
    ("host", Free::Host),
    ("victim", Free::Victim),
    ("elsewhere", Free::Elsewhere),
    ("-", Free::Nowhere),
    ("test", Free::Test),
];
const COLUMNS: usize = 4;
const BEGIN: &str =
    "<!-- of tests/real/escapes/table.txt: written by its test with FERROGATE_WRITE_DOCS=1 -->\n";
const END: &str = "<!-- end -->\n";

/// # Panics
/// On a line that is none of the table's, a name or title that is there twice.
pub(super) fn read() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut names = BTreeSet::new();
    let lines = include_str!("table.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in lines {
        let columns: Vec<&str> = line.splitn(COLUMNS, " | ").collect();
        if let Some(stops) = line.strip_prefix("> ") {
            rows.last_mut().expect("a title above").stops = stops;
        } else if let [title] = columns[..] {
            assert!(names.insert(title), "{title} is there twice");
            rows.push(Row { title, stops: "", attempts: Vec::new() });
        } else {
            let [name, free, refused, program] = columns[..] else { panic!("not {COLUMNS} columns: {line}") };
            assert!(names.insert(name), "{name} is there twice");
            let free = FREE.iter().find(|(known, _)| *known == free).unwrap_or_else(|| panic!("{line}")).1;
            let attempt = Attempt { name, free, refused: refused.split(", ").collect(), program };
            rows.last_mut().expect("a title above").attempts.push(attempt);
        }
    }
    assert!(rows.iter().all(|row| !row.stops.is_empty() && !row.attempts.is_empty()));
    rows
}

/// The table of the document.
pub(super) fn written(rows: &[Row]) -> String {
    let mut text = "| tried from inside a task | what stops it |\n|---|---|\n".to_owned();
    for Row { title, stops, attempts } in rows {
        let names: Vec<&str> = attempts.iter().map(|attempt| attempt.name).collect();
        writeln!(text, "| **{title}:** {} | {stops} |", names.join("; ")).expect("a text takes all");
    }
    text
}

/// The document with this table in the place of its own.
pub(super) fn with_table(document: &str, table: &str) -> String {
    let (before, rest) = document.split_once(BEGIN).expect("the table's begin in the document");
    let (_, after) = rest.split_once(END).expect("the table's end in the document");
    format!("{before}{BEGIN}{table}{END}{after}")
}
