//! Route 53: hosted zones and record sets.
