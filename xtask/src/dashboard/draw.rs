//! Draws panels as Grafana arranges them.

use std::fmt::Write as _;

use super::panel::{Kind, Panel, Series};
use super::unit::show;
use crate::svg::{self, text};

/// Pixels of a column of the grid, and of a line of it.
const COLUMN: f64 = 50.0;
const LINE: f64 = 30.0;
const COLUMNS: f64 = 24.0;
const MARGIN: f64 = 20.0;
/// Between two panels, and around what is in one.
const GAP: f64 = 8.0;
const PADDING: f64 = 12.0;
const HEADING: f64 = 26.0;
/// The text of the axes.
const SCALE: f64 = 64.0;
const TIMES: f64 = 16.0;
const LEGEND: f64 = 15.0;
/// Entries of a legend, of which the last one says how many more there are.
const ENTRIES: usize = 5;
/// The width of a legend in a wide panel.
const WIDE: f64 = 380.0;
/// Classes of colours.
const COLOURS: usize = 5;
const FOOTER: f64 = 30.0;

const LIGHT: &str = "\
    .panel { fill: none; stroke: #d0d7de } .grid { stroke: #d0d7de; stroke-width: 0.5 } .large { font-size: 26px; font-weight: 600 } \
    .row { font-size: 15px; font-weight: 600 } .name { font-size: 11px; font-weight: 600 } .end { text-anchor: end } \
    .good { fill: #1a7f64 } .bad { fill: #cf222e } polyline { fill: none; stroke-width: 1.5 } \
    .c0 { stroke: #1a7f64 } .c1 { stroke: #0969da } .c2 { stroke: #bc4c00 } .c3 { stroke: #8250df } .c4 { stroke: #8c959f }";
const DARK: &str = "\
    .panel, .grid { stroke: #30363d } .good { fill: #3fb996 } .bad { fill: #f85149 } \
    .c0 { stroke: #3fb996 } .c1 { stroke: #58a6ff } .c2 { stroke: #f0883e } .c3 { stroke: #bc8cff } .c4 { stroke: #6e7681 }";

/// Draws all panels over this many seconds, and below them a line that says what the picture is.
pub(super) fn svg(panels: &[Panel], seconds: u32, about: &str) -> String {
    let lines = panels.iter().map(|panel| panel.place[1] + panel.place[3]).fold(0.0, f64::max);
    let (width, height) = (COLUMNS * COLUMN + 2.0 * MARGIN, lines * LINE + 2.0 * MARGIN + FOOTER);
    let mut svg = svg::start(width, height, "The dashboard of flannel's agents", LIGHT, DARK);
    for panel in panels {
        let [x, y, w, h] = panel.place;
        let area = Area {
            x: MARGIN + x * COLUMN + GAP / 2.0,
            y: MARGIN + y * LINE + GAP / 2.0,
            width: w * COLUMN - GAP,
            height: h * LINE - GAP,
        };
        match panel.kind {
            Kind::Row => text(&mut svg, "row", area.x, area.y + area.height - GAP / 2.0, &panel.title),
            Kind::Stat => stat(&mut svg, area, panel),
            Kind::Lines => lines_of(&mut svg, area, panel, f64::from(seconds)),
        }
    }
    text(&mut svg, "small", MARGIN, height - MARGIN, about);
    svg::end(&mut svg);
    svg
}

/// A rectangle of the picture.
#[derive(Clone, Copy)]
struct Area {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

fn frame(svg: &mut String, Area { x, y, width, height }: Area, class: &str, title: &str) {
    let _ = writeln!(
        svg,
        "<rect class=\"panel\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"4\"/>"
    );
    text(svg, class, x + PADDING, y + HEADING - GAP, title);
}

/// Draws the last values as large numbers, with their names if they have one.
fn stat(svg: &mut String, area: Area, panel: &Panel) {
    frame(svg, area, "name", &panel.title);
    let step = (area.width - PADDING) / panel.series.len().max(1) as f64;
    for (number, series) in panel.series.iter().enumerate() {
        let x = area.x + PADDING + step * number as f64;
        let class = match panel.alarm {
            Some(alarm) if series.last() >= alarm => "large bad",
            _ => "large good",
        };
        text(svg, class, x, area.y + area.height / 2.0 + HEADING / 2.0, &show(&panel.unit, series.last()));
        text(svg, "small", x, area.y + area.height - GAP, &series.name);
    }
}

/// Draws lines over time with their scale, and a legend with their last values: the largest lines first.
fn lines_of(svg: &mut String, area: Area, panel: &Panel, seconds: f64) {
    frame(svg, area, "title", &panel.title);
    let mut all: Vec<_> = panel.series.iter().collect();
    all.sort_by(|one, other| other.most().total_cmp(&one.most()));
    let entries = all.len().min(ENTRIES);
    let plot = Area {
        x: area.x + PADDING + SCALE,
        y: area.y + HEADING + GAP,
        width: area.width - SCALE - 2.0 * PADDING,
        height: area.height - HEADING - TIMES - LEGEND * (entries as f64) - 3.0 * GAP,
    };
    let most = panel.most.unwrap_or_else(|| scale(all.first().map_or(0.0, |series| series.most())));
    axes(svg, plot, &panel.unit, most, seconds);
    for (number, series) in all.iter().enumerate().rev() {
        line(svg, plot, colour(number), series, most, seconds);
    }
    let top = plot.y + plot.height + TIMES + LEGEND;
    for (number, series) in all.iter().take(entries).enumerate() {
        let y = top + LEGEND * number as f64;
        let rest = &all[number..];
        let is_rest = number + 1 == ENTRIES && rest.len() > 1;
        let (name, value) = if is_rest {
            let most = rest.iter().map(|series| series.most()).fold(0.0, f64::max);
            (format!("{} more, at most", rest.len()), most)
        } else {
            (series.name.clone(), series.last())
        };
        let (x, middle) = (area.x + PADDING, y - 4.0);
        let _ = writeln!(
            svg,
            "<line class=\"c{}\" x1=\"{x}\" x2=\"{}\" y1=\"{middle}\" y2=\"{middle}\" stroke-width=\"3\"/>",
            colour(number),
            x + 14.0
        );
        text(svg, "small", x + 20.0, y, &name);
        text(svg, "small end", x + (plot.width + SCALE).min(WIDE), y, &show(&panel.unit, value));
    }
}

/// Returns the number of a colour. What the legend does not name has the last one.
fn colour(number: usize) -> usize {
    number.min(COLOURS - 1)
}

/// Returns the next of 1, 2, 5, 10 and so on above this value: the end of a scale.
fn scale(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(most.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step > most).unwrap_or(most * 2.0)
}

fn axes(svg: &mut String, Area { x, y, width, height }: Area, unit: &str, most: f64, seconds: f64) {
    for part in [0.0, 0.5, 1.0] {
        let at = y + height * (1.0 - part);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>",
            x + width
        );
        text(svg, "small", x - SCALE, at + 4.0, &show(unit, most * part));
    }
    for part in [0.0, 0.5, 1.0] {
        let shift = if part == 1.0 { 28.0 } else { 0.0 };
        text(
            svg,
            "small",
            x + width * part - shift,
            y + height + TIMES - 2.0,
            &format!("{:.0} s", seconds * part),
        );
    }
}

fn line(svg: &mut String, plot: Area, colour: usize, series: &Series, most: f64, seconds: f64) {
    let point = |(time, value): &(f64, f64)| {
        let (x, y) = (plot.x + plot.width * time / seconds, plot.y + plot.height * (1.0 - value / most));
        format!("{x:.1},{y:.1}")
    };
    let points: Vec<_> = series.points.iter().map(point).collect();
    let _ = writeln!(svg, "<polyline class=\"c{colour}\" points=\"{}\"/>", points.join(" "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_above_the_largest_value() {
        for (most, expected) in
            [(0.0, 1.0), (0.7, 1.0), (1.0, 2.0), (4.9, 5.0), (5.1, 10.0), (55_000.0, 100_000.0)]
        {
            assert!((scale(most) - expected).abs() < 1e-9, "{most}: {}", scale(most));
        }
    }

    #[test]
    fn lines_are_drawn_from_the_largest_and_the_rest_is_counted() {
        let series = |number: u8| Series {
            name: format!("line {number}"),
            points: vec![(0.0, 0.0), (10.0, f64::from(number))],
        };
        let panel = Panel {
            title: "A panel".to_owned(),
            kind: Kind::Lines,
            unit: "pps".to_owned(),
            place: [0.0, 0.0, 12.0, 8.0],
            most: None,
            alarm: None,
            series: (1..=7).map(series).collect(),
        };
        let svg = svg(&[panel], 10, "about");
        assert_eq!(svg.matches("<polyline").count(), 7, "{svg}");
        for words in ["A panel", "line 7", "7 p/s", "line 4", "3 more, at most", "3 p/s", "10 p/s", "about"] {
            assert!(svg.contains(&format!(">{words}<")), "no {words} in {svg}");
        }
        assert!(!svg.contains("line 3"), "{svg}");
    }
}
