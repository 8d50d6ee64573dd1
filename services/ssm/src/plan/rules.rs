//! What names, values and labels may be ("Requirements and constraints for parameter names", "Working with parameter
//! labels", AWS Systems Manager User Guide).

use ferrogate_api::ApiError;

use crate::errors::validation;

const LEVELS_MAX: usize = 15;
/// Of the whole ARN.
pub(crate) const ARN_CHARACTERS_MAX: usize = 1011;
const STANDARD_BYTES_MAX: usize = 4096;
const ADVANCED_BYTES_MAX: usize = 8192;
pub(crate) const STANDARD: &str = "Standard";
pub(crate) const ADVANCED: &str = "Advanced";
const INTELLIGENT: &str = "Intelligent-Tiering";

const NAME_WORDS: &str =
    "each sub-path can be formed as a mix of letters, numbers and the following 3 symbols .-_";

fn of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-".contains(c)
}

fn is_reserved(part: &str) -> bool {
    let part = part.to_ascii_lowercase();
    part.starts_with("aws") || part.starts_with("ssm")
}

/// The name of a parameter to be.
pub(crate) fn name(name: &str) -> Result<(), ApiError> {
    let path = name.strip_prefix('/').unwrap_or(name);
    let first = path.split('/').next().unwrap_or_default();
    if name.starts_with("/aws/") {
        let message = format!("No access to reserved parameter name: {name}.");
        return Err(ApiError::new("AccessDeniedException", message));
    }
    if is_reserved(first) {
        let more = if path.contains('/') {
            format!(" If formed as a path, it can consist of sub-paths divided by slash symbol; {NAME_WORDS}")
        } else {
            String::new()
        };
        return Err(validation(format!(
            "Parameter name: can't be prefixed with \"aws\" or \"ssm\" (case-insensitive).{more}"
        )));
    }
    if path.contains('/') && !name.starts_with('/') {
        return Err(validation("Parameter name must be a fully qualified name."));
    }
    let parts: Vec<&str> = path.split('/').collect();
    if parts.iter().any(|part| part.is_empty() || !part.chars().all(of_name)) {
        return Err(validation(format!(
            "Parameter name: can't be prefixed with \"ssm\" (case-insensitive). If formed as a path, it can consist of \
             sub-paths divided by slash symbol; {NAME_WORDS}"
        )));
    }
    if parts.len() > LEVELS_MAX {
        return Err(ApiError::new(
            "HierarchyLevelLimitExceededException",
            format!("A hierarchy can have a maximum of {LEVELS_MAX} levels; {name} has {}.", parts.len()),
        ));
    }
    Ok(())
}

/// A path of GetParametersByPath.
pub(crate) fn path(path: &str) -> Result<(), ApiError> {
    let below = path.strip_prefix('/');
    let whole = below.map(|below| below.strip_suffix('/').unwrap_or(below));
    let valid = match whole {
        Some("") => path == "/",
        Some(below) => below.split('/').all(|part| !part.is_empty() && part.chars().all(of_name)),
        None => false,
    };
    if valid {
        return Ok(());
    }
    Err(validation(
        "The parameter doesn't meet the parameter name requirements. The parameter name must begin with a forward slash \
         \"/\". It can't be prefixed with \"aws\" or \"ssm\" (case-insensitive). It must use only letters, numbers, or the \
         following symbols: . (period), - (hyphen), _ (underscore). Special characters are not allowed. All sub-paths, if \
         specified, must use the forward slash symbol \"/\". Valid example: /get/parameters2-/by1./path0_.",
    ))
}

/// The tier a value gets. `was`: the parameter's tier until now, which never goes down.
pub(crate) fn tier(wanted: Option<&str>, was: Option<&str>, value: &str) -> Result<&'static str, ApiError> {
    let was_advanced = was == Some(ADVANCED);
    let tier = match wanted {
        Some(ADVANCED) => ADVANCED,
        Some(INTELLIGENT) if value.len() > STANDARD_BYTES_MAX || was_advanced => ADVANCED,
        Some(STANDARD) if was_advanced => {
            return Err(validation(
                "This parameter uses the advanced-parameter tier. You can't downgrade a parameter from the \
                 advanced-parameter tier to the standard-parameter tier. If necessary, you can delete the advanced \
                 parameter and recreate it as a standard parameter.",
            ));
        }
        None if was_advanced => ADVANCED,
        _ => STANDARD,
    };
    if tier == STANDARD && value.len() > STANDARD_BYTES_MAX {
        return Err(validation(format!(
            "Standard tier parameters support a maximum parameter value of {STANDARD_BYTES_MAX} characters. To create a larger \
             parameter value, upgrade the parameter to use the advanced-parameter tier. For more information, see \
             https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-advanced-parameters.html"
        )));
    }
    if value.len() > ADVANCED_BYTES_MAX {
        return Err(validation(format!(
            "Advanced tier parameters support a maximum parameter value of {ADVANCED_BYTES_MAX} characters."
        )));
    }
    Ok(tier)
}

pub(crate) fn is_label(label: &str) -> bool {
    !is_reserved(label) && !label.starts_with(|c: char| c.is_ascii_digit()) && label.chars().all(of_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for valid in ["a", "/a", "/a/b.c/d_e-F", "9", &format!("/{}", vec!["x"; 15].join("/"))] {
            assert!(name(valid).is_ok(), "{valid}");
        }
        for (wrong, code) in [
            ("a/b", "ValidationException"),
            ("/a//b", "ValidationException"),
            ("/a/", "ValidationException"),
            ("a b", "ValidationException"),
            ("a:b", "ValidationException"),
            ("awsome", "ValidationException"),
            ("/SSMthing/x", "ValidationException"),
            ("/aws/service/x", "AccessDeniedException"),
            (&format!("/{}", vec!["x"; 16].join("/")), "HierarchyLevelLimitExceededException"),
        ] {
            assert_eq!(name(wrong).unwrap_err().code, code, "{wrong}");
        }
    }

    #[test]
    fn paths() {
        assert!(["/", "/a", "/a/", "/a/b"].into_iter().all(|valid| path(valid).is_ok()));
        assert!(["", "a", "//", "/a//b", "/a b"].into_iter().all(|wrong| path(wrong).is_err()));
    }

    #[test]
    fn tiers() {
        let (small, middle, large) = ("x".repeat(4096), "x".repeat(8192), "x".repeat(8193));
        assert_eq!(tier(None, None, &small), Ok(STANDARD));
        assert!(tier(None, None, &middle).is_err());
        assert_eq!(tier(Some(ADVANCED), None, &middle), Ok(ADVANCED));
        assert_eq!(tier(Some(INTELLIGENT), None, &small), Ok(STANDARD));
        assert_eq!(tier(Some(INTELLIGENT), None, &middle), Ok(ADVANCED));
        assert_eq!(tier(None, Some(ADVANCED), &middle), Ok(ADVANCED));
        assert!(tier(Some(STANDARD), Some(ADVANCED), &small).is_err());
        assert!(tier(Some(ADVANCED), None, &large).is_err());
    }

    #[test]
    fn labels() {
        assert!(["a", "blue.1_x-y"].into_iter().all(is_label));
        assert!(!["1a", "aws-x", "Ssm", "a b", "a/b"].into_iter().any(is_label));
    }
}
