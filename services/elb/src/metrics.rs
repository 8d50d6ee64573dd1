//! What balancers counted: the last three hours by minute, in memory, for CloudWatch.

use std::collections::{BTreeMap, VecDeque};

use ferrogate_nodeapi::BalancerMetric;
use jiff::Timestamp;

/// Three hours, as CloudWatch keeps one-minute points of high resolution.
const MINUTES_MAX: usize = 180;
/// Series in all. A balancer has some thirty, and some ten more for each target group and zone.
const SERIES_MAX: usize = 50_000;
const MINUTE_SECONDS: i64 = 60;

/// Whose number it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricKey {
    pub load_balancer_arn: String,
    /// `None`: of the load balancer.
    pub target_group_arn: Option<String>,
    pub availability_zone: String,
    /// `RequestCount`, …
    pub name: String,
}

/// One minute of one metric, as CloudWatch's statistic sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Datum {
    /// The minute's start.
    pub at: Timestamp,
    pub sum: f64,
    pub minimum: f64,
    pub maximum: f64,
    pub samples: u64,
}

#[derive(Default)]
pub(crate) struct Metrics {
    series: BTreeMap<MetricKey, VecDeque<Datum>>,
}

impl Metrics {
    pub(crate) fn add(&mut self, balancer_arn: &str, zone: &str, metric: BalancerMetric, now: Timestamp) {
        if metric.samples == 0 {
            return;
        }
        let key = MetricKey {
            load_balancer_arn: balancer_arn.to_owned(),
            target_group_arn: metric.target_group_arn,
            availability_zone: zone.to_owned(),
            name: metric.name,
        };
        let minute = now.as_second().div_euclid(MINUTE_SECONDS) * MINUTE_SECONDS;
        let at = Timestamp::from_second(minute).unwrap_or(now);
        if !self.series.contains_key(&key) && self.series.len() >= SERIES_MAX {
            self.forget_before(now);
            if self.series.len() >= SERIES_MAX {
                tracing::warn!(SERIES_MAX, "a metric of a load balancer is dropped: there are too many");
                return;
            }
        }
        let points = self.series.entry(key).or_default();
        match points.back_mut() {
            Some(last) if last.at == at => {
                last.sum += metric.sum;
                last.minimum = last.minimum.min(metric.minimum);
                last.maximum = last.maximum.max(metric.maximum);
                last.samples += metric.samples;
            }
            _ => {
                let BalancerMetric { sum, minimum, maximum, samples, .. } = metric;
                points.push_back(Datum { at, sum, minimum, maximum, samples });
            }
        }
        while points.len() > MINUTES_MAX {
            points.pop_front();
        }
    }

    /// Everything from `since` on.
    pub(crate) fn read(&self, since: Timestamp) -> Vec<(MetricKey, Vec<Datum>)> {
        let recent = |points: &VecDeque<Datum>| -> Vec<Datum> {
            points.iter().filter(|datum| datum.at >= since).copied().collect()
        };
        let all = self.series.iter().map(|(key, points)| (key.clone(), recent(points)));
        all.filter(|(_, points)| !points.is_empty()).collect()
    }

    /// Series of which nothing has come for three hours.
    fn forget_before(&mut self, now: Timestamp) {
        let oldest = now.as_second() - MINUTES_MAX as i64 * MINUTE_SECONDS;
        self.series.retain(|_, points| points.back().is_some_and(|last| last.at.as_second() >= oldest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(sum: f64) -> BalancerMetric {
        BalancerMetric {
            name: "RequestCount".into(),
            target_group_arn: None,
            sum,
            minimum: sum,
            maximum: sum,
            samples: 1,
        }
    }

    #[test]
    fn minutes_are_joined_and_old_ones_go() {
        let mut metrics = Metrics::default();
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        metrics.add("lb", "a", metric(1.0), at(0));
        metrics.add("lb", "a", metric(3.0), at(59));
        let read = metrics.read(at(0));
        assert_eq!(read[0].1.len(), 1);
        let datum = read[0].1[0];
        assert_eq!((datum.sum, datum.minimum, datum.maximum, datum.samples), (4.0, 1.0, 3.0, 2));
        for minute in 1..=200 {
            metrics.add("lb", "a", metric(1.0), at(minute * 60));
        }
        assert_eq!(metrics.read(at(0))[0].1.len(), MINUTES_MAX);
        metrics.forget_before(at(200 * 60 + 4 * 3600));
        assert!(metrics.read(at(0)).is_empty());
    }
}
