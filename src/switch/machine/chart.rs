//! Values of the chart that say something else than what the controller goes by. They begin a first install and are not
//! followed afterwards, so whoever changed one has to be told.

use super::run::Run;
use super::text::list_whole;
use crate::switch::conditions::ConditionType;
use crate::switch::inputs::ChartValues;
use crate::switch::observed::Output;
use crate::switch::settings::{Params, Upstream};

const DIFFER: ConditionType = ConditionType::ChartValuesDiffer;

impl Run<'_> {
    /// Shows them.
    pub(super) fn show_chart_values(&mut self) {
        let (reason, lines) = match &self.look.inputs.chart {
            // What was shown before stays.
            Output::Unreadable(_) => return self.shown.keep(DIFFER),
            Output::Absent => ("", Vec::new()),
            Output::Garbled { why, .. } => ("Unreadable", vec![why.clone()]),
            Output::Present { value, .. } => ("Differ", differences(value, &self.record.target)),
        };
        if lines.is_empty() {
            return self.shown.remove(DIFFER);
        }
        let heading = "Values of the chart that are not followed; the mode is set by d8-registry switch mode:";
        let message = list_whole(heading, &lines);
        self.say(false, "ChartValuesDiffer", message.clone());
        self.shown.set(DIFFER, true, reason, message);
    }
}

/// One sentence for each value.
fn differences(values: &ChartValues, target: &Params) -> Vec<String> {
    let mut lines = Vec::new();
    let (mode, in_force) = (values.mode, target.target());
    if mode != in_force {
        lines.push(format!("mode is {mode}, the controller goes by {in_force}"));
    }
    let (Some(theirs), Some(ours)) = (&values.upstream, target.upstream()) else { return lines };
    let Upstream { images_repo, scheme, ca, login } = theirs;
    if *images_repo != ours.images_repo {
        lines.push(format!("upstream.imagesRepo is {images_repo}, the controller goes by {}", ours.images_repo));
    }
    if *scheme != ours.scheme {
        lines.push(format!("upstream.scheme is {scheme}, the controller goes by {}", ours.scheme));
    }
    if ca.as_deref().map(str::trim) != ours.ca.as_deref().map(str::trim) {
        lines.push("upstream.ca is not what the controller goes by".to_owned());
    }
    if *login != ours.login {
        lines.push(
            "upstream.username and password, or the license, are not those that the controller goes by".to_owned(),
        );
    }
    lines
}
