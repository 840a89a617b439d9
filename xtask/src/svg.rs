//! The pieces of which the pictures of documents are made, for light and dark pages.

use std::fmt::Write as _;

/// Colours and fonts that all pictures share. A picture adds its own rules before it, and those for dark pages behind it.
const STYLE: &str = "\
    svg { font: 13px system-ui, sans-serif; background: #fff; color: #1f2328 } \
    text { fill: currentColor } .title { font-weight: 600 } .small { font-size: 11px } ";
const DARK: &str = "svg { background: #0d1117; color: #e6edf3 } ";

/// Starts a picture of this size, with a label for those who do not see it. `light` and `dark` are rules of its own for light and
/// dark pages.
pub(crate) fn start(width: f64, height: f64, label: &str, light: &str, dark: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{label}\">\n\
         <style>{STYLE}{light} @media (prefers-color-scheme: dark) {{ {DARK}{dark} }}</style>\n"
    )
}

/// Ends a picture.
pub(crate) fn end(svg: &mut String) {
    svg.push_str("</svg>\n");
}

/// Adds a line of text whose left end is here. `class` is one of the style's.
pub(crate) fn text(svg: &mut String, class: &str, x: f64, y: f64, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_elements() {
        let mut svg = start(1.0, 2.0, "label", "", "");
        text(&mut svg, "title", 3.0, 4.0, "a < b & c");
        end(&mut svg);
        assert!(
            svg.contains("<text class=\"title\" x=\"3\" y=\"4\">a &lt; b &amp; c</text>\n</svg>\n"),
            "{svg}"
        );
    }
}
