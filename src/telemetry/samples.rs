//! Numbers that are asked at a scrape instead of being counted as things happen.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::families::{Family, Kind};

/// Samples of one scrape, by family.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<MetricFamily>);

impl Samples {
    /// Adds one with the values of the family's labels, in their order. Histograms can't be sampled: they count as gauges.
    pub fn add(&mut self, family: &Family, labels: &[&str], value: u64) {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let pairs = family.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut pairs: Vec<LabelPair> = pairs.collect();
        // As those of families that are counted.
        pairs.sort_by(|one, other| one.name().cmp(other.name()));
        let mut metric = Metric::from_label(pairs);
        // Exact up to 2^53: the format knows no other numbers.
        let value = value as f64;
        match family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.family(family).mut_metric().push(metric);
    }

    fn family(&mut self, family: &Family) -> &mut MetricFamily {
        let place = self.0.iter().position(|known| known.name() == family.name);
        let place = place.unwrap_or_else(|| {
            let mut new = MetricFamily::default();
            new.set_name(family.name.to_owned());
            new.set_help(family.help.to_owned());
            new.set_field_type(match family.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge | Kind::Histogram => MetricType::GAUGE,
            });
            self.0.push(new);
            self.0.len() - 1
        });
        &mut self.0[place]
    }

    pub(super) fn into_families(self) -> Vec<MetricFamily> {
        self.0
    }
}
