//! The container's hardware address, by the channel that it comes through.

use cni_attach::mac::{self, MacError};
use cni_plugin::{CniArgs, MacAddr};

use crate::config::Config;

/// The nearest to the container wins: the runtime's capability, then `args`, then `CNI_ARGS`.
pub fn of_container(config: &Config, args: &CniArgs) -> Result<Option<MacAddr>, MacError> {
    let from_args = mac::from_args(args)?;
    mac::first_of([
        ("runtimeConfig.mac", config.runtime_config.mac.as_str()),
        ("args.cni.mac", &config.args.cni.mac),
        ("CNI_ARGS MAC", &from_args),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: serde_json::Value) -> Result<Option<MacAddr>, String> {
        let config: Config = cni_plugin::json::decode(value).unwrap();
        of_container(&config, &CniArgs::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_nearest_to_the_container_wins() {
        let value =
            json!({"runtimeConfig": {"mac": "02:00:00:00:00:01"}, "args": {"cni": {"mac": "02:00:00:00:00:02"}}});
        assert_eq!(of(value).unwrap().unwrap().to_string(), "02:00:00:00:00:01");
        assert_eq!(of(json!({})).unwrap(), None);
    }
}
