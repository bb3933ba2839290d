//! The layouts against `nccl.h` itself, where a C compiler and the header are there.

use super::*;
use crate::{Code, DataType};
use std::path::PathBuf;
use std::process::Command;

/// What the header includes of CUDA's, as far as it needs it, and a program that prints the layouts.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stddef.h>
#include <nccl.h>
#define FIELD(name) printf(#name " %zu\n", offsetof(ncclConfig_t, name));
int main(void) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  printf("id %zu\nundefined %d\nmagic_is %u\n", sizeof(ncclUniqueId), NCCL_CONFIG_UNDEF_INT, config.magic);
  printf("types %d %d %d %d %d %d\n", ncclUint8, ncclInt64, ncclFloat16, ncclBfloat16, ncclFloat32, ncclFloat64);
  printf("codes %d %d %d %d\n", ncclSuccess, ncclInvalidUsage, ncclRemoteError, ncclInProgress);
  printf("sum %d\n", ncclSum);
  FIELD(size) FIELD(magic) FIELD(version) FIELD(blocking) FIELD(cgaClusterSize) FIELD(minCTAs) FIELD(maxCTAs) FIELD(netName)
  FIELD(splitShare) FIELD(trafficClass) FIELD(commName) FIELD(collnetEnable) FIELD(CTAPolicy) FIELD(shrinkShare) FIELD(nvlsCTAs)
  FIELD(nChannelsPerNetPeer) FIELD(nvlinkCentricSched)
  if (NCCL_VERSION_CODE < 22900) printf("bytes %zu\n", sizeof(ncclConfig_t));
  return 0;
}
"#;

/// The folder of `nccl.h` in the virtual environment that has libtorch.
fn header() -> Option<PathBuf> {
    let torch = PathBuf::from(std::env::var_os("LIBTORCH")?).canonicalize().ok()?;
    Some(torch.parent()?.join("nvidia/nccl/include")).filter(|folder| folder.join("nccl.h").exists())
}

#[test]
fn layouts_are_those_of_the_header() {
    assert_eq!(size_of::<Config>(), 80);
    let Some(include) = header() else {
        eprintln!("skipped ffi::tests::layouts_are_those_of_the_header: no nvidia/nccl/include/nccl.h beside LIBTORCH");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cuda_runtime.h"), "#define CUDART_VERSION 0\ntypedef struct stream *cudaStream_t;\n")
        .unwrap();
    std::fs::write(folder.path().join("cuda_fp16.h"), "").unwrap();
    std::fs::write(folder.path().join("layout.c"), PROGRAM).unwrap();
    let program = folder.path().join("layout");
    let mut compiler = Command::new("cc");
    compiler.arg(folder.path().join("layout.c")).arg("-I").arg(folder.path()).arg("-I").arg(include).arg("-o").arg(&program);
    let compiled = compiler.output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let printed = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();

    let types = [DataType::U8, DataType::I64, DataType::F16, DataType::Bf16, DataType::F32, DataType::F64].map(DataType::code);
    let codes = [Code::Success, Code::InvalidUsage, Code::RemoteError, Code::InProgress];
    let mut lines = printed.lines();
    let mut expect = |line: String| assert_eq!(lines.next(), Some(line.as_str()), "in\n{printed}");
    let config = Config::non_blocking();
    expect(format!("id {}", size_of::<RawUniqueId>()));
    expect(format!("undefined {UNDEFINED}"));
    expect(format!("magic_is {}", config.magic));
    expect(format!("types {}", types.map(|code| code.to_string()).join(" ")));
    let named = printed.lines().nth(4).unwrap().split(' ').skip(1).map(|code| Code::from(code.parse::<c_int>().unwrap()));
    assert!(named.eq(codes), "{printed}");
    expect("codes 0 5 6 7".into());
    expect(format!("sum {SUM}"));
    macro_rules! fields {
        ($($field:ident $name:literal),*) => {
            $(expect(format!("{} {}", $name, std::mem::offset_of!(Config, $field)));)*
        };
    }
    fields!(size "size", magic "magic", version "version", blocking "blocking", cga_cluster_size "cgaClusterSize");
    fields!(min_ctas "minCTAs", max_ctas "maxCTAs", net_name "netName", split_share "splitShare", traffic_class "trafficClass");
    fields!(comm_name "commName", collnet_enable "collnetEnable", cta_policy "CTAPolicy", shrink_share "shrinkShare");
    fields!(nvls_ctas "nvlsCTAs", channels_per_net_peer "nChannelsPerNetPeer", nvlink_centric_sched "nvlinkCentricSched");
    if let Some(line) = lines.next() {
        assert_eq!(line, format!("bytes {}", size_of::<Config>()));
    }
}
