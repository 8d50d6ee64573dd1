//! AWS Certificate Manager: imported certificates.
