//! The matrix as a page to read.

use std::fmt::Write as _;

use super::Fault;
use super::matrix::Matrix;

const HEAD: &str = "\
# What the conformance suite catches

A test that cannot fail shows nothing. So every case of the suite is played to a small STOMP server
(`conformance-tests/tests/faulty/`) that is right in everything, and passes; and to the same server
with one mistake at a time, and must fail with some of them. `cargo test -p conformance-tests` does
that in a few seconds, and compares this page, which `UPDATE=1 cargo test -p conformance-tests
--test every_case_can_fail` writes.

Mistakes marked * are seen by more than a twentieth of all cases: they show little about any of them,
so no case may live by them alone.
";

pub(crate) fn page(matrix: &Matrix) -> String {
    let mut out = String::from(HEAD);
    let (cases, faults) = (matrix.cases.len(), Fault::ALL.len());
    // Writing to a String cannot fail.
    write!(
        out,
        "\n{cases} cases, {faults} mistakes.\n\n## Mistakes, and the cases that see them\n\n"
    )
    .unwrap();
    out.push_str("| mistake | the server | cases |\n|---|---|---|\n");
    for fault in Fault::ALL.iter().copied() {
        let seen_by = matrix.seen_by(fault);
        let (mark, seen) = if matrix.is_crude(fault) {
            ("*", format!("{seen_by} cases"))
        } else {
            let ids = matrix.cases.iter().enumerate();
            let ids = ids.filter(|(at, _)| matrix.red(*at).contains(&fault));
            let ids: Vec<String> = ids.map(|(_, case)| format!("`{}`", case.id)).collect();
            ("", ids.join(", "))
        };
        writeln!(out, "| {fault:?}{mark} | {} | {seen} |", cell(fault.doc())).unwrap();
    }
    out.push_str(
        "\n## Cases, and the mistakes that they see\n\nWhat few other cases see comes first.\n",
    );
    let mut file = "";
    for (at, case) in matrix.cases.iter().enumerate() {
        if case.file != file {
            file = &case.file;
            let name = file.strip_suffix(".stomp").unwrap_or(file);
            write!(out, "\n### {name}\n\n| case | it shows | mistakes |\n|---|---|---|\n").unwrap();
        }
        let (own, all) = (matrix.own(at), matrix.red(at).len());
        let crude = all - own.len();
        let mut names: Vec<String> = own.iter().map(|fault| format!("{fault:?}")).collect();
        if crude > 0 {
            names.push(format!("{crude} marked *"));
        }
        writeln!(out, "| `{}` | {} | {} |", case.id, cell(&case.title), names.join(", ")).unwrap();
    }
    out
}

/// Text that does not end its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('*', "\\*").replace('<', "&lt;")
}
