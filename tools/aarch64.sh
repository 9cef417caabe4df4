#!/usr/bin/env bash
# Golden vectors on emulated aarch64: makes a subset anew there and compares the hash with the one of this machine.
#
#     sudo bash tools/aarch64.sh WORK [OPERATION...]
#
# WORK is a folder for everything that is downloaded and unpacked (1 GB); it is used again if it is there. Without names of operations the
# subset is the one that docs/reproducibility.md records. Needs Debian or Ubuntu with apt-get, root for the chroot, and a Python that has
# refquant and pip: $PYTHON, by default .venv/bin/python of this checkout. Nothing is installed on this machine: QEMU's emulator and
# debootstrap are unpacked into WORK. Emulation is about thirty times slower than the machine itself.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
(($#)) || { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
mkdir -p "$1"
work=$(cd "$1" && pwd)
shift
python=${PYTHON:-$here/.venv/bin/python}
root=$work/root
suite=bookworm
mirror=${MIRROR:-http://deb.debian.org/debian}
# The packages that refquant needs to make vectors, and nothing else; python3 of the suite is 3.11.
wheels=(numpy scipy safetensors tokenizers ml_dtypes msgspec threadpoolctl mpmath click rich tomli_w)

if [[ ! -x $work/host/usr/bin/qemu-aarch64-static ]]; then
    mkdir -p "$work/archives"
    (cd "$work/archives" && apt-get download qemu-user-static debootstrap)
    for archive in "$work"/archives/*.deb; do dpkg -x "$archive" "$work/host"; done
fi
if [[ ! -x $root/usr/bin/python3.11 ]]; then
    # The first stage only downloads and unpacks the core; the second would run its scripts. Unpacking everything is enough for Python.
    DEBOOTSTRAP_DIR=$work/host/usr/share/debootstrap "$work/host/usr/sbin/debootstrap" \
        --arch=arm64 --foreign --variant=minbase --include=python3 "$suite" "$root" "$mirror"
    for archive in "$root"/var/cache/apt/archives/*.deb; do dpkg -x "$archive" "$root"; done
fi
if [[ ! -d $root/site/numpy ]]; then
    "$python" -m pip download --quiet --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --only-binary=:all: --no-deps --python-version 3.11 --dest "$work/wheels" "${wheels[@]}"
    mkdir -p "$root/site"
    for wheel in "$work"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$root/site"; done
fi
cp "$work/host/usr/bin/qemu-aarch64-static" "$root/usr/bin/"
rm -rf "$root/refquant"
mkdir "$root/refquant"
tar -C "$here" --exclude=__pycache__ -cf - refquant model golden | tar -C "$root/refquant" -xf -

words=(-m refquant.conformance.settings refquant.conformance.digests:subset_root "$@")
there=$(env -i PATH=/usr/sbin:/usr/bin:/bin PYTHONPATH=/refquant:/site PYTHONDONTWRITEBYTECODE=1 chroot "$root" \
    /usr/bin/qemu-aarch64-static /usr/bin/python3.11 "${words[@]}" | tail -n 1)
ours=$(cd "$here" && "$python" "${words[@]}" | tail -n 1)
"$python" - "$there" "$ours" <<'PYTHON'
import json, sys

there, here = map(json.loads, sys.argv[1:])
for name, found in (("aarch64, emulated", there), ("here", here)):
    seen = found["surroundings"]
    print(f"{name}: {found['result']} (NumPy {seen['numpy']}, BLAS {', '.join(seen['blas_kernels']) or 'unknown'})")
sys.exit(there["result"] != here["result"])
PYTHON
