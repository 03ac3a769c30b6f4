//! A frame that came against the pattern that was expected.

use crate::reader::{ServerFrame, show};
use crate::template::Values;
use crate::transcript::FramePattern;

/// What the frame's holes held, or the first thing that is wrong.
pub(crate) fn compare(
    pattern: &FramePattern,
    frame: &ServerFrame,
    values: &Values,
) -> Result<Values, String> {
    if frame.command != pattern.command.as_bytes() {
        return Err(format!("expected {}, got {}", pattern.command, describe(frame)));
    }
    let mut values = values.clone();
    let mut captured = Values::new();
    for (name, expected) in &pattern.headers {
        let Some(value) = frame.header(name.as_bytes()) else {
            return Err(format!("header `{name}` is missing in {}", pattern.command));
        };
        let found = expected.matches(value, &values).ok_or_else(|| {
            let expected = show(&expected.describe(&values));
            format!("header `{name}`: expected {expected}, got {}", show(value))
        })?;
        values.extend(found.clone());
        captured.extend(found);
    }
    for name in &pattern.absent {
        if let Some(value) = frame.header(name.as_bytes()) {
            return Err(format!("header `{name}` must not be there, got {}", show(value)));
        }
    }
    if !pattern.open {
        let further = frame.headers.iter().find(|(name, _)| {
            !pattern.headers.iter().any(|(expected, _)| expected.as_bytes() == name)
        });
        if let Some((name, value)) = further {
            return Err(format!("a further header {}: {}", show(name), show(value)));
        }
    }
    let found = pattern.body.matches(&frame.body, &values).ok_or_else(|| {
        let expected = show(&pattern.body.describe(&values));
        format!("body: expected {expected}, got {}", show(&frame.body))
    })?;
    captured.extend(found);
    Ok(captured)
}

/// A frame in a few words: its command and, for an ERROR, its message.
pub(crate) fn describe(frame: &ServerFrame) -> String {
    let mut out = String::from_utf8_lossy(&frame.command).into_owned();
    if let Some(message) = frame.header(b"message") {
        out.push(' ');
        out.push_str(&show(message));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::Template;

    fn pattern(headers: &[(&str, &str)], open: bool, body: &str) -> FramePattern {
        FramePattern {
            line: 1,
            command: "MESSAGE".into(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Template::text(value).unwrap()))
                .collect(),
            absent: vec!["z".into()],
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
            (frame("MESSAGE", &[("a", "1"), ("b", "")], "x"), r#"a further header "b": """#),
            (frame("MESSAGE", &[("a", "1")], "y"), r#"body: expected "x", got "y""#),
        ];
        for (came, expected) in cases {
            assert_eq!(compare(&strict, &came, &Values::new()).unwrap_err(), expected);
        }
        let open = pattern(&[("a", "1")], true, "x");
        assert!(
            compare(&open, &frame("MESSAGE", &[("a", "1"), ("b", "")], "x"), &Values::new())
                .is_ok()
        );
    }
}
