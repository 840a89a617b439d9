//! Turns the OpenMetrics text into Prometheus's own format 0.0.4, for readers that do not ask for OpenMetrics: `promtool check
//! metrics`, for example. Pure.

/// Returns the same metrics in the other format, which names a counter as its sample, and has neither units nor an end.
pub(super) fn from_open_metrics(text: &str) -> String {
    let mut classic = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some((_, help)) = help.take_if(|(of, _)| *of == name) {
                classic += &format!("# HELP {name}{suffix} {help}\n");
            }
            classic += &format!("# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            classic += line;
            classic.push('\n');
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_named_as_their_samples_and_units_left_out() {
        let text = "# HELP a_b Some bytes.\n# TYPE a_b counter\n# UNIT a_b bytes\na_b_total{c=\"d\"} 1\n\
            # HELP build A version.\n# TYPE build info\nbuild_info{version=\"1\"} 1\n\
            # HELP g A gauge.\n# TYPE g gauge\ng 2\n# EOF\n";
        let classic = "# HELP a_b_total Some bytes.\n# TYPE a_b_total counter\na_b_total{c=\"d\"} 1\n\
            # HELP build_info A version.\n# TYPE build_info gauge\nbuild_info{version=\"1\"} 1\n\
            # HELP g A gauge.\n# TYPE g gauge\ng 2\n";
        assert_eq!(from_open_metrics(text), classic);
    }
}
