//! `table.txt`, read; and the table of it that `docs/security.md` has.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Attempts that the same things stop.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) stops: &'static str,
    /// In a micro-VM, besides.
    pub(super) stops_in_machine: &'static str,
    pub(super) attempts: Vec<Attempt>,
}

pub(super) struct Attempt {
    pub(super) name: &'static str,
    pub(super) free: Free,
    /// What it may come to in a task.
    pub(super) refused: Vec<&'static str>,
    /// … in a micro-VM, if that is something else.
    pub(super) in_machine: Vec<&'static str>,
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
/// Before a word of the third column that is true in a micro-VM only.
const IN_MACHINE: &str = "vm:";
/// What an attempt comes to that was not stopped.
const DONE: &str = "done";
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
        if let Some(stops) = line.strip_prefix(">> ") {
            rows.last_mut().expect("a title above").stops_in_machine = stops;
        } else if let Some(stops) = line.strip_prefix("> ") {
            rows.last_mut().expect("a title above").stops = stops;
        } else if let [title] = columns[..] {
            assert!(names.insert(title), "{title} is there twice");
            rows.push(Row { title, stops: "", stops_in_machine: "", attempts: Vec::new() });
        } else {
            let [name, free, refused, program] = columns[..] else { panic!("not {COLUMNS} columns: {line}") };
            assert!(names.insert(name), "{name} is there twice");
            let free = FREE.iter().find(|(known, _)| *known == free).unwrap_or_else(|| panic!("{line}")).1;
            let (in_machine, refused): (Vec<_>, Vec<_>) =
                refused.split(", ").partition(|word| word.starts_with(IN_MACHINE));
            let in_machine = in_machine.iter().map(|word| &word[IN_MACHINE.len()..]).collect();
            let attempt = Attempt { name, free, refused, in_machine, program };
            rows.last_mut().expect("a title above").attempts.push(attempt);
        }
    }
    assert!(rows.iter().all(|row| !row.stops.is_empty() && !row.stops_in_machine.is_empty()));
    assert!(rows.iter().all(|row| !row.attempts.is_empty()));
    rows
}

/// The table of the document.
pub(super) fn written(rows: &[Row]) -> String {
    let mut text = "| tried from inside a task | what stops it | in a micro-VM |\n|---|---|---|\n".to_owned();
    for Row { title, stops, stops_in_machine, attempts } in rows {
        let names = |wanted: fn(&&Attempt) -> bool| -> String {
            attempts.iter().filter(wanted).map(|attempt| attempt.name).collect::<Vec<_>>().join("; ")
        };
        let not_stopped = match names(|attempt| attempt.in_machine.contains(&DONE)) {
            none if none.is_empty() => none,
            some => format!(". **Not stopped, and the guest's own affair:** {some}"),
        };
        let tried = names(|_| true);
        writeln!(text, "| **{title}:** {tried} | {stops} | {stops_in_machine}{not_stopped} |")
            .expect("a text takes all");
    }
    text
}

/// The document with this table in the place of its own.
pub(super) fn with_table(document: &str, table: &str) -> String {
    let (before, rest) = document.split_once(BEGIN).expect("the table's begin in the document");
    let (_, after) = rest.split_once(END).expect("the table's end in the document");
    format!("{before}{BEGIN}{table}{END}{after}")
}
