//! The calls of Service Quotas: how many vCPUs of on-demand instances may run.

use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    account::{Account, Caller},
    failure::Failure,
    policy::Ask,
};

/// What requests and answers are.
pub const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
/// Code, name and AWS's default of each quota.
pub const QUOTAS: [(&str, &str, f64); 10] = [
    ("L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 5.0),
    ("L-6E869C2A", "Running On-Demand DL instances", 0.0),
    ("L-74FC7D96", "Running On-Demand F instances", 0.0),
    ("L-DB2E81BA", "Running On-Demand G and VT instances", 0.0),
    ("L-F7808C92", "Running On-Demand HPC instances", 0.0),
    ("L-43DA4232", "Running On-Demand High Memory instances", 0.0),
    ("L-1945791B", "Running On-Demand Inf instances", 0.0),
    ("L-417A185B", "Running On-Demand P instances", 0.0),
    ("L-2C3B7624", "Running On-Demand Trn instances", 0.0),
    ("L-7295265B", "Running On-Demand X instances", 0.0),
];

const APPLIED: &str = "servicequotas:GetServiceQuota";
const DEFAULT: &str = "servicequotas:GetAWSDefaultServiceQuota";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Wanted {
    service_code: String,
    quota_code: String,
}

/// What policies call it; none if there is no such call.
pub fn action_of(target: &str) -> Option<&'static str> {
    match target.strip_prefix("ServiceQuotasV20190624.")? {
        "GetServiceQuota" => Some(APPLIED),
        "GetAWSDefaultServiceQuota" => Some(DEFAULT),
        _ => None,
    }
}

/// Does what a call asks for.
///
/// # Errors
/// As Service Quotas would.
pub fn call(
    account: &Account,
    caller: &Caller,
    action: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Value, Failure> {
    let values = match action {
        APPLIED => &account.options.quotas,
        DEFAULT => &account.options.default_quotas,
        _ => return Err(Failure::new(400, "UnknownOperationException", "There is no such call")),
    };
    if headers.get("content-type").is_none_or(|given| given != CONTENT_TYPE) {
        return Err(Failure::new(400, "SerializationException", format!("The content type is not {CONTENT_TYPE}")));
    }
    let unreadable = |error: serde_json::Error| Failure::new(400, "SerializationException", error.to_string());
    let Wanted { service_code, quota_code } = serde_json::from_slice(body).map_err(unreadable)?;
    account.require(caller, &Ask::of(action, "*".to_owned()))?;
    if service_code != "ec2" {
        let message = "The request failed because the specified service does not exist.";
        return Err(Failure::new(400, "NoSuchResourceException", message));
    }
    let missing = || {
        let message = format!("The request failed because the quota {quota_code} has no such value");
        Failure::new(400, "NoSuchResourceException", message)
    };
    let value = values.get(&quota_code).ok_or_else(missing)?;
    let name = QUOTAS.iter().find(|(code, ..)| *code == quota_code).map_or("", |(_, name, _)| *name);
    let region = &account.options.region;
    Ok(json!({"Quota": {
        "ServiceCode": "ec2",
        "ServiceName": "Amazon Elastic Compute Cloud (Amazon EC2)",
        "QuotaArn": format!("arn:aws:servicequotas:{region}:{}:ec2/{quota_code}", account.options.account),
        "QuotaCode": quota_code,
        "QuotaName": name,
        "Value": value,
        "Unit": "None",
        "Adjustable": true,
        "GlobalQuota": false,
    }}))
}
