#!/usr/bin/env bash
# Makes .venv hold what requirements.lock pins, and this package in editable mode. Safe to repeat: when nothing
# changed it does nothing and says nothing. Indexes, mirrors and caches are those pip and uv are configured with.
# PYTHON=<interpreter> chooses the Python; LARA_NO_APT=1 leaves system packages alone.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

runs() { "$1" -c 'import sys; assert (3, 12) <= sys.version_info < (3, 14)' 2>/dev/null; }

# Trying beats looking: a version manager's shims also exist for versions that are not active.
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.12 python3.13 python3 python ~/.pyenv/versions/3.1[23]*/bin/python; do
    if [ -n "$candidate" ] && runs "$candidate"; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  return 1
}

install_packages() {
  local python='' uv=() installer=() verbosity=()
  python=$(find_python) || true
  if uv --version >/dev/null 2>&1; then
    uv=(uv)
  elif python3 -m uv --version >/dev/null 2>&1; then
    uv=(python3 -m uv)
  elif [ -z "$python" ]; then
    say 'needs Python 3.12 or 3.13 and found none that runs. Install one (or uv, which fetches one by itself)'
    say 'and repeat, or name it: PYTHON=/path/to/python3.12 make setup'
    return 1
  fi
  say 'installing the packages of requirements.lock into .venv (first time: 4 GB to fetch, 8 GB on disk)'
  export VIRTUAL_ENV="$PWD/.venv" # where uv installs
  if [ "${#uv[@]}" != 0 ]; then
    [ -d .venv ] || "${uv[@]}" venv --quiet --python "${python:-3.12}" .venv
    installer=("${uv[@]}" pip)
  else
    "$python" -m venv .venv
    installer=(.venv/bin/python -m pip)
    # pip alone takes minutes where uv takes seconds, so it fetches uv first if it can.
    if .venv/bin/python -m pip install --quiet uv 2>/dev/null; then installer=(.venv/bin/python -m uv pip); fi
  fi
  [ -t 2 ] || verbosity=(--quiet)
  # The lock is complete; dependencies would bring back what pyproject.toml overrides.
  "${installer[@]}" install ${verbosity[@]+"${verbosity[@]}"} --no-deps -r requirements.lock
  "${installer[@]}" install --quiet --no-deps --no-build-isolation -e .
}

# Meta-World renders through EGL; where no GPU driver brings it, Mesa's software renderer serves.
renders() {
  MUJOCO_GL=egl .venv/bin/python -c 'import mujoco; mujoco.GLContext(8, 8).make_current()' >/dev/null 2>&1
}

# Without FFmpeg's libraries LeRobot decodes video with PyAV, several times slower, after pages of warnings.
decodes() { has_library libavutil; }

has_library() { { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | grep "$1\.so" >/dev/null; }

install_system_packages() {
  local packages=()
  if [ "$(uname)" != Linux ]; then return; fi
  renders || packages+=(libegl1 libgl1-mesa-dri)
  decodes || packages+=(ffmpeg)
  if [ "${#packages[@]}" = 0 ]; then return; fi
  if [ "$(id -u)" = 0 ] && [ -z "${LARA_NO_APT:-}" ] && command -v apt-get >/dev/null; then
    say "installing the system packages ${packages[*]}, for rendering and video"
    if { apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >/dev/null &&
      renders && decodes; then return; fi
  fi
  renders || say 'Meta-World cannot render here (everything else works).'
  decodes || say 'video is decoded slowly here (everything else works).'
  say "As root: apt-get update && apt-get install ${packages[*]}"
}

# SIMPLER renders through Vulkan. Without a GPU that takes Mesa's software renderer of version 25, which Debian 12 has
# as a backport only. It is unpacked into .venv, where `lerobot_lara.envs.simpler` finds it, so that the system's own
# Mesa, with which Meta-World is rendered, stays as it is.
lavapipe=.venv/share/lavapipe

renders_vulkan() { [ -f "$lavapipe/icd.json" ] || [ -e /dev/nvidiactl ]; }

# Prints the apt options under which Mesa 25 is known, after fetching the backports' package list into a folder.
mesa_source() {
  local folder=$1 release uri
  if apt-cache policy mesa-vulkan-drivers 2>/dev/null | grep -qE 'Candidate: (2[5-9]|[3-9][0-9])\.'; then return; fi
  release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  uri=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
    awk -v release="$release" '$2 == release && $3 == "main" && !found {print $1; found = 1}')
  [ -n "$uri" ] || return 1
  mkdir -p "$folder/lists/partial"
  echo "deb $uri $release-backports main" >"$folder/sources.list"
  apt-get update -qq -o Dir::Etc::sourcelist="$folder/sources.list" -o Dir::Etc::sourceparts=- \
    -o Dir::State::lists="$folder/lists" >&2
  printf '%s\n' -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=- \
    -o "Dir::State::lists=$folder/lists"
}

unpack_lavapipe() {
  local folder here=$PWD options=()
  folder=$(mktemp -d)
  chmod 755 "$folder" # apt fetches as a user of its own
  mapfile -t options < <(mesa_source "$folder")
  (cd "$folder" && apt-get download -qq ${options[@]+"${options[@]}"} mesa-vulkan-drivers >/dev/null 2>&1) &&
    dpkg-deb -x "$folder"/mesa-vulkan-drivers_*.deb "$folder/unpacked" &&
    mkdir -p "$lavapipe" && cp "$folder"/unpacked/usr/lib/*/libvulkan_lvp.so "$lavapipe" &&
    install_needed_by "$folder"/mesa-vulkan-drivers_*.deb &&
    printf '{"ICD": {"api_version": "1.3.0", "library_path": "%s/libvulkan_lvp.so"}, "file_format_version": "1.0.0"}\n' \
      "$here/$lavapipe" >"$lavapipe/icd.json"
  rm -rf "$folder"
}

# Installs the libraries that the renderer needs, if the system lacks any.
install_needed_by() {
  local packages=()
  if ! ldd "$lavapipe/libvulkan_lvp.so" | grep -q 'not found'; then return; fi
  [ "$(id -u)" = 0 ] || return 1
  mapfile -t packages < <(dpkg-deb -f "$1" Depends | tr ',|' '\n\n' | awk '{print $1}')
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

install_vulkan() {
  if [ "$(uname)" != Linux ] || renders_vulkan; then return; fi
  if [ -z "${LARA_NO_APT:-}" ] && command -v apt-get >/dev/null; then
    say "unpacking Mesa's Vulkan renderer into $lavapipe, for SIMPLER"
    unpack_lavapipe || true
  fi
  renders_vulkan || say 'SIMPLER cannot render here (everything else works): it needs a GPU, or Mesa 25 or later.'
}

# A virtual environment that was moved or copied still points to where it was made.
if [ -d .venv ] && { ! runs .venv/bin/python ||
  { [ -f .venv/bin/lara ] && ! grep -qF "$PWD/.venv/bin/python" .venv/bin/lara; }; }; then
  say 'the virtual environment in .venv is broken, was moved or has another Python: creating it again'
  rm -rf .venv
fi
stamp=.venv/.lara-setup
state=$(cat requirements.lock pyproject.toml | cksum)
if [ ! -x .venv/bin/lara ] || [ "$(cat "$stamp" 2>/dev/null)" != "$state" ]; then
  install_packages
  install_system_packages
  install_vulkan
  echo "$state" >"$stamp"
  say 'ready; .venv/bin/lara doctor reports what works'
elif [ "$(uname)" = Linux ] && ! { has_library libEGL && has_library libavutil; }; then
  install_system_packages # this .venv was kept, but the system under it is a new one
fi
