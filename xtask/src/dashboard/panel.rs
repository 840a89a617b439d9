//! The panels of the dashboard, and the data of their queries.

use std::fs;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};
use flannel_tests::prometheus::{INTERVAL, JOB, Prometheus};
use serde_json::Value;

use crate::workspace::root;

/// What the dashboard's variables are filled with. Rates are over ten readings.
const VARIABLES: [(&str, &str); 3] = [("$job", JOB), ("$instance", ".+"), ("$__rate_interval", "10s")];
/// The name of a metric in a result is no label.
const NAME: &str = "__name__";

/// How a panel shows its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The title of the panels below it.
    Row,
    /// The last values, as large numbers.
    Stat,
    /// Lines over time.
    Lines,
}

/// A panel, where it is on the dashboard's grid, and its data.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) kind: Kind,
    /// Grafana's name of the unit.
    pub(super) unit: String,
    /// Column of 24, line, width and height on the grid.
    pub(super) place: [f64; 4],
    /// The end of the scale, if the dashboard sets one.
    pub(super) most: Option<f64>,
    /// From which value on a number is red.
    pub(super) alarm: Option<f64>,
    pub(super) series: Vec<Series>,
}

/// A line of a panel.
pub(super) struct Series {
    pub(super) name: String,
    /// Seconds since the start of the data, and values.
    pub(super) points: Vec<(f64, f64)>,
}

impl Series {
    /// Returns the last value, if there is one.
    pub(super) fn last(&self) -> f64 {
        self.points.last().map_or(f64::NAN, |point| point.1)
    }

    /// Returns the largest value.
    pub(super) fn most(&self) -> f64 {
        self.points.iter().map(|point| point.1).fold(0.0, f64::max)
    }
}

/// Reads the dashboard, and asks Prometheus for the data of these last seconds.
pub(super) fn read(prometheus: &Prometheus, seconds: u32) -> Result<Vec<Panel>> {
    let file = root().join("deploy/grafana/flannel.json");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let dashboard: Value = serde_json::from_str(&text)?;
    let panels = dashboard["panels"].as_array().context("the dashboard has no panels")?;
    let end = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
    panels.iter().map(|panel| Panel::of(panel, prometheus, end, seconds)).collect()
}

impl Panel {
    fn of(json: &Value, prometheus: &Prometheus, end: f64, seconds: u32) -> Result<Self> {
        let title = json["title"].as_str().context("a panel has no title")?.to_owned();
        let kind = match json["type"].as_str() {
            Some("row") => Kind::Row,
            Some("stat") => Kind::Stat,
            Some("timeseries") => Kind::Lines,
            other => bail!("{title} is of a type that cannot be drawn: {other:?}"),
        };
        let place = ["x", "y", "w", "h"].map(|side| json["gridPos"][side].as_f64().unwrap_or_default());
        let settings = &json["fieldConfig"]["defaults"];
        let unit = settings["unit"].as_str().unwrap_or("short").to_owned();
        let mut steps = settings["thresholds"]["steps"].as_array().into_iter().flatten();
        let alarm = steps.find(|step| step["color"] == "red").and_then(|step| step["value"].as_f64());
        let start = end - f64::from(seconds);
        let targets = json["targets"].as_array().into_iter().flatten();
        let series = targets.map(|target| series(target, prometheus, start, end));
        let series = series.collect::<Result<Vec<_>>>().with_context(|| title.clone())?;
        let series: Vec<_> = series.into_iter().flatten().collect();
        ensure!(kind == Kind::Row || !series.is_empty(), "{title} has no data");
        Ok(Self { title, kind, unit, place, most: settings["max"].as_f64(), alarm, series })
    }
}

/// Returns the lines of a query.
fn series(target: &Value, prometheus: &Prometheus, start: f64, end: f64) -> Result<Vec<Series>> {
    let expression = target["expr"].as_str().context("a query has no expression")?;
    let filled = |text: String, (name, value): (&str, &str)| text.replace(name, value);
    let expression = VARIABLES.into_iter().fold(expression.to_owned(), filled);
    let results = prometheus.query_range(&expression, start, end, INTERVAL)?;
    let legend = target["legendFormat"].as_str().unwrap_or_default();
    Ok(results
        .iter()
        .map(|result| Series { name: name(legend, &result["metric"]), points: points(result, start) })
        .collect())
}

/// Fills in a legend such as `{{program}}: {{outcome}}`. Without one, a line is named by its labels.
fn name(legend: &str, labels: &Value) -> String {
    let labels = labels.as_object().into_iter().flatten();
    let labels: Vec<_> = labels.filter(|(label, _)| *label != NAME).collect();
    if legend.is_empty() {
        let values: Vec<_> = labels.iter().filter_map(|(_, value)| value.as_str()).collect();
        return values.join(", ");
    }
    labels.iter().fold(legend.to_owned(), |legend, (label, value)| {
        legend.replace(&format!("{{{{{label}}}}}"), value.as_str().unwrap_or_default())
    })
}

/// Returns the points that are numbers.
fn points(result: &Value, start: f64) -> Vec<(f64, f64)> {
    let values = result["values"].as_array().into_iter().flatten();
    let points =
        values.filter_map(|point| Some((point[0].as_f64()? - start, point[1].as_str()?.parse().ok()?)));
    points.filter(|(_, value): &(f64, f64)| value.is_finite()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn legends_are_filled_in() {
        let labels = json!({"__name__": "metric", "program": "pod_egress", "outcome": "hit"});
        assert_eq!(name("{{program}}: {{outcome}}", &labels), "pod_egress: hit");
        assert_eq!(name("", &labels), "hit, pod_egress");
        assert_eq!(name("capacity", &json!({})), "capacity");
    }

    #[test]
    fn what_is_no_number_is_no_point() {
        let result = json!({"values": [[100.5, "1.5"], [101.5, "NaN"], [102.5, "+Inf"], [103.5, "2"]]});
        assert_eq!(points(&result, 100.0), [(0.5, 1.5), (3.5, 2.0)]);
    }
}
