//! A frame that came against the pattern that was expected.

use std::time::Duration;

use crate::connection::Event;
use crate::reader::{ServerFrame, show};
use crate::template::{Template, Values};
use crate::transcript::FramePattern;
use crate::wrong::Wrong;

/// What the frame's holes held, or the first thing that is wrong.
pub(crate) fn compare(
    pattern: &FramePattern,
    frame: &ServerFrame,
    values: &Values,
) -> Result<Values, Wrong> {
    if frame.command != pattern.command.as_bytes() {
        let event = Event::Frame(frame.clone(), None);
        return Err(Wrong::instead(&pattern.command, event, Duration::ZERO));
    }
    let mut values = values.clone();
    let mut captured = Values::new();
    for (name, expected) in &pattern.headers {
        let Some(value) = frame.header(name.as_bytes()) else {
            return Err(format!("header `{name}` is missing in {}", pattern.command).into());
        };
        let found = expected
            .matches(value, &values)
            .ok_or_else(|| differs(&format!("header `{name}`"), expected, &values, value))?;
        values.extend(found.clone());
        captured.extend(found);
    }
    for (name, forbidden) in &pattern.absent {
        let value = frame.header(name.as_bytes());
        if let Some(value) = value.filter(|value| forbidden.matches(value, &values).is_some()) {
            let what = format!("header `{name}` must not be there");
            return Err(Wrong::new(what, format!(", got {}", show(value))));
        }
    }
    if !pattern.open {
        let further = frame.headers.iter().find(|(name, _)| {
            !pattern.headers.iter().any(|(expected, _)| expected.as_bytes() == name)
        });
        if let Some((name, value)) = further {
            let what = format!("a further header {}", show(name));
            return Err(Wrong::new(what, format!(": {}", show(value))));
        }
    }
    let body = &pattern.body;
    let found = body
        .matches(&frame.body, &values)
        .ok_or_else(|| differs("body", body, &values, &frame.body))?;
    captured.extend(found);
    Ok(captured)
}

/// What is the same in every run is said first.
fn differs(place: &str, expected: &Template, values: &Values, came: &[u8]) -> Wrong {
    let shown = format!(": expected {}", show(&expected.describe(values)));
    let came = format!(", got {}", show(came));
    if expected.is_fixed() {
        Wrong::new(format!("{place}{shown}"), came)
    } else {
        Wrong::new(place, format!("{shown}{came}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(headers: &[(&str, &str)], open: bool, body: &str) -> FramePattern {
        FramePattern {
            line: 1,
            command: "MESSAGE".into(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Template::text(value).unwrap()))
                .collect(),
            absent: vec![("z".into(), Template::any()), ("y".into(), Template::bytes(b"no"))],
            open,
            body: Template::text(body).unwrap(),
        }
    }

    fn frame(command: &str, headers: &[(&str, &str)], body: &str) -> ServerFrame {
        ServerFrame {
            command: command.into(),
            headers: headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            body: body.into(),
        }
    }

    #[test]
    fn order_does_not_matter_and_the_first_of_a_name_counts() {
        let pattern = pattern(&[("a", "${x=*}"), ("b", "2-${x}")], false, "${x}");
        let came = frame("MESSAGE", &[("b", "2-1"), ("a", "1"), ("a", "9")], "1");
        let captured = compare(&pattern, &came, &Values::new()).unwrap();
        assert_eq!(captured, Values::from([("x".into(), b"1".to_vec())]));
    }

    #[test]
    fn every_difference_is_named() {
        let strict = pattern(&[("a", "1")], false, "x");
        let cases = [
            (frame("ERROR", &[("message", "no")], ""), r#"expected MESSAGE, got ERROR "no""#),
            (frame("MESSAGE", &[], "x"), "header `a` is missing in MESSAGE"),
            (frame("MESSAGE", &[("a", "2")], "x"), r#"header `a`: expected "1", got "2""#),
            (
                frame("MESSAGE", &[("a", "2"), ("a", "1")], "x"),
                r#"header `a`: expected "1", got "2""#,
            ),
            (frame("MESSAGE", &[("A", "1")], "x"), "header `a` is missing in MESSAGE"),
            (
                frame("MESSAGE", &[("a", "1"), ("z", "")], "x"),
                r#"header `z` must not be there, got """#,
            ),
            (
                frame("MESSAGE", &[("a", "1"), ("y", "no")], "x"),
                r#"header `y` must not be there, got "no""#,
            ),
            (frame("MESSAGE", &[("a", "1"), ("y", "yes")], "x"), r#"a further header "y": "yes""#),
            (frame("MESSAGE", &[("a", "1"), ("b", "")], "x"), r#"a further header "b": """#),
            (frame("MESSAGE", &[("a", "1")], "y"), r#"body: expected "x", got "y""#),
        ];
        for (came, expected) in cases {
            let wrong = compare(&strict, &came, &Values::new()).unwrap_err();
            assert_eq!(wrong.to_string(), expected);
        }
        let open = pattern(&[("a", "1")], true, "x");
        assert!(
            compare(&open, &frame("MESSAGE", &[("a", "1"), ("b", "")], "x"), &Values::new())
                .is_ok()
        );
    }

    #[test]
    fn what_a_run_made_up_is_apart() {
        let values = Values::from([("unique".into(), b"conf-1".to_vec())]);
        let cases = [
            ("1", "header `a`: expected \"1\"", ", got \"2\""),
            ("${*}1", "header `a`: expected \"${*}1\"", ", got \"2\""),
            ("${unique}", "header `a`", ": expected \"conf-1\", got \"2\""),
        ];
        for (expected, what, came) in cases {
            let pattern = pattern(&[("a", expected)], true, "");
            let frame = frame("MESSAGE", &[("a", "2")], "");
            let wrong = compare(&pattern, &frame, &values).unwrap_err();
            assert_eq!(wrong, Wrong::new(what, came));
        }
    }
}
