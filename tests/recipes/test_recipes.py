"""The launch recipes: what can be known of them without a cluster."""

import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jsonschema
import kubernetes_validate
import pytest
import yaml
from absl import flags

from sg3jax.cli import train

ROOT = pathlib.Path(__file__).parents[2]
RECIPES = ROOT / 'recipes'
TINY = ROOT / 'tests' / 'cli' / 'tiny_run.py'
JOBSETS = ('jobset-gpu.yaml', 'jobset-tpu.yaml')


def _closed(required=(), **properties):
  """Returns the JSON schema of an object without other properties."""
  return {
    'type': 'object',
    'properties': properties,
    'required': list(required),
    'additionalProperties': False,
  }


def _listed(items):
  return {'type': 'array', 'items': items}


_NAME, _NUMBER = {'type': 'string'}, {'type': 'integer', 'minimum': 0}
# What jobset.x-k8s.io/v1alpha2 adds to Kubernetes, by its resource definition:
# https://github.com/kubernetes-sigs/jobset/tree/main/config/components/crd
_JOBSET = _closed(
  ['apiVersion', 'kind', 'metadata', 'spec'],
  apiVersion={'const': 'jobset.x-k8s.io/v1alpha2'},
  kind={'const': 'JobSet'},
  metadata=_closed(
    ['name'],
    name={'type': 'string', 'pattern': '^[a-z]([-a-z0-9]*[a-z0-9])?$'},
    annotations={'type': 'object', 'additionalProperties': _NAME},
  ),
  spec=_closed(
    ['replicatedJobs'],
    failurePolicy=_closed(
      maxRestarts=_NUMBER,
      restartStrategy={'enum': ['Recreate', 'BlockingRecreate']},
      rules=_listed(
        _closed(
          ['action', 'name'],
          action={
            'enum': [
              'FailJobSet',
              'RestartJobSet',
              'RestartJobSetAndIgnoreMaxRestarts',
            ]
          },
          name={
            'type': 'string',
            'pattern': '^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$',
          },
          # Reasons for which Kubernetes fails a job.
          onJobFailureReasons=_listed(
            {
              'enum': [
                'BackoffLimitExceeded',
                'DeadlineExceeded',
                'FailedIndexes',
                'MaxFailedIndexesExceeded',
                'PodFailurePolicy',
              ]
            }
          ),
          targetReplicatedJobs=_listed(_NAME),
        )
      ),
    ),
    network=_closed(
      enableDNSHostnames={'type': 'boolean'},
      publishNotReadyAddresses={'type': 'boolean'},
      subdomain=_NAME,
    ),
    replicatedJobs=_listed(
      _closed(
        ['name', 'template'],
        name=_NAME,
        replicas=_NUMBER,
        template={'type': 'object', 'required': ['spec']},
      )
    ),
  ),
)


def program(folder, name, text):
  path = folder / name
  path.write_text(text)
  path.chmod(0o755)


@pytest.fixture
def cluster(tmp_path):
  """Returns a function that runs the batch script among programs of a cluster.

  `srun` runs a command that is given as text, or as often as there are tasks.
  """
  folder = tmp_path / 'bin'
  folder.mkdir()
  program(
    folder, 'scontrol', f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\n'
  )
  program(
    folder, 'sg3jax', f'#!/bin/sh\nexec {sys.executable} -m sg3jax "$@"\n'
  )

  def run(*args, srun, timeout=20, **environment):
    program(folder, 'srun', srun)
    environment = {k: v for k, v in environment.items() if v is not None}
    done = subprocess.run(
      ['bash', RECIPES / 'slurm.sh', *args],
      env={
        **os.environ, 'PATH': f'{folder}:{os.environ["PATH"]}',
        'SLURM_JOB_ID': '4711', **environment,
      },
      capture_output=True,
      text=True,
      timeout=timeout,
      cwd=ROOT,
      check=False,
    )  # fmt: skip
    asked = tmp_path / 'scontrol.txt'
    return done, asked.read_text() if asked.exists() else ''

  return run


@pytest.mark.parametrize(
  ('status', 'requeued'),
  [(0, False), (1, False), (2, False), (75, True), (137, True), (143, True)],
)
def test_slurm_starts_again_what_asks_for_it(cluster, status, requeued):
  done, asked = cluster(
    '--config=x', srun=f'#!/bin/sh\nexit {status}\n', WORKDIR='/shared/run'
  )
  assert asked == ('requeue 4711\n' if requeued else '')
  assert done.returncode == (0 if requeued else status)


def test_slurm_passes_all_arguments(cluster):
  done, _ = cluster(
    '--config=x', '--config.data.source=two words',
    srun='#!/bin/sh\nprintf "<%s>" "$@"\n', WORKDIR='/a run',
  )  # fmt: skip
  assert done.stdout == (
    '<--kill-on-bad-exit=1><sg3jax><train><--distributed><--workdir=/a run>'
    '<--config=x><--config.data.source=two words>'
  )


def test_slurm_needs_a_run_folder(cluster):
  done, asked = cluster(srun='#!/bin/sh\nexit 75\n', WORKDIR=None)
  assert done.returncode == 2
  assert 'error: WORKDIR must name the run folder' in done.stderr
  assert not asked


def test_slurm_does_not_start_again_for_ever(cluster):
  done, asked = cluster(
    srun='#!/bin/sh\nexit 75\n', WORKDIR='/x', SLURM_RESTART_COUNT='100'
  )
  assert done.returncode == 75
  assert 'raise MAX_RESTARTS' in done.stderr
  assert not asked


def test_slurm_gives_each_gpu_a_process():
  """JAX gives process k of a node its GPU k, among all that it sees."""
  options = dict(
    re.findall(r'^#SBATCH --(\S+)=(\S+)$', _text('slurm.sh'), re.MULTILINE)
  )
  assert options['ntasks-per-node'] == options['gpus-per-node']
  assert 'gpus-per-task' not in options


_SRUN = """#!/usr/bin/env bash
shift  # --kill-on-bad-exit=1
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=1
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  tasks="${tasks:-} $!"
done
worst=0
for task in $tasks; do
  wait "$task" || { status=$?; [ $status -gt $worst ] && worst=$status; }
done
exit $worst
"""


@pytest.mark.slow
def test_slurm_trains_with_two_processes(cluster, tmp_path):
  """They find each other by Slurm's variables, and share a run."""
  done, asked = cluster(
    f'--config={TINY}', '--config.data.source=embedded:32',
    '--config.log.metrics=none',
    srun=_SRUN, timeout=400, WORKDIR=str(tmp_path / 'run'),
    JAX_PLATFORMS='cpu', JAX_NUM_CPU_DEVICES='2',
    # A port of its own, and not the devices of the other tests.
    SLURM_JOB_ID=str(os.getpid()), XLA_FLAGS='',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert not asked
  log = (tmp_path / 'run' / 'log.txt').read_text()
  assert '4 x cpu (cpu), 2 process(es)' in log
  assert 'Done: 0.016 kimg' in log


def _text(name):
  return (RECIPES / name).read_text()


def _job(name):
  """Returns a JobSet, its only job's specification, and its container."""
  jobset = yaml.safe_load(_text(name))
  (replicated,) = jobset['spec']['replicatedJobs']
  job = replicated['template']['spec']
  (container,) = job['template']['spec']['containers']
  return jobset, job, container


def _validate(jobset):
  """Raises ValidationError for what Kubernetes or JobSet would not accept."""
  jsonschema.validate(jobset, _JOBSET)
  for replicated in jobset['spec']['replicatedJobs']:
    job = {
      'apiVersion': 'batch/v1',
      'kind': 'Job',
      'metadata': {'name': replicated['name']},
      **replicated['template'],
    }
    latest = kubernetes_validate.latest_version()
    kubernetes_validate.validate(job, latest, strict=True)


@pytest.mark.parametrize('name', JOBSETS)
def test_jobsets_match_the_schemas(name):
  _validate(_job(name)[0])


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    ('maxRestarts: 100', 'maxRestarts: often'),
    ('failurePolicy:', 'failurePolicies:'),
    ('action: FailJobSet', 'action: FailJob'),
    ('[PodFailurePolicy]', '[Error]'),
    ('completions: ', 'completion: '),
    ('restartPolicy: Never', 'restartPolicy: [Never]'),
    ('containerPort: ', 'port: '),
    ('mountPath: /shared', 'path: /shared'),
    ('values: [1, 2]', 'values: [one]'),
  ],
)
def test_the_schemas_refuse_mistakes(old, new):
  for name in JOBSETS:
    assert old in _text(name)
    with pytest.raises(
      (jsonschema.ValidationError, kubernetes_validate.ValidationError)
    ):
      _validate(yaml.safe_load(_text(name).replace(old, new)))


@pytest.mark.parametrize('name', JOBSETS)
def test_jobsets_restart_all_or_stop(name):
  jobset, job, container = _job(name)
  # Indexed jobs number their pods; all of them run at once.
  assert job['completionMode'] == 'Indexed'
  assert job['completions'] == job['parallelism']
  # A pod that fails fails the job, and the JobSet starts all again ...
  pod = job['template']['spec']
  assert job['backoffLimit'] == 0
  assert pod['restartPolicy'] == 'Never'
  assert jobset['spec']['failurePolicy']['maxRestarts'] > 0
  # ... but not for an error, which would only come again.
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['action'] == 'FailJob'
  assert rule['onExitCodes'] == {
    'containerName': container['name'], 'operator': 'In', 'values': [1, 2]
  }  # fmt: skip
  assert jobset['spec']['failurePolicy']['rules'] == [
    {
      'name': 'error',
      'action': 'FailJobSet',
      'onJobFailureReasons': ['PodFailurePolicy'],
    }
  ]
  assert pod['terminationGracePeriodSeconds'] >= 120
  mounted = {mount['name'] for mount in container['volumeMounts']}
  assert mounted == {volume['name'] for volume in pod['volumes']}


@pytest.mark.parametrize('name', JOBSETS)
def test_jobsets_use_flags_that_there_are(name):
  _, job, container = _job(name)
  command, *args = container['args']
  assert command == 'train'
  known = {
    flag.name for flag in flags.FLAGS.get_key_flags_for_module(train)
  } | {'config'}
  options = dict(arg.removeprefix('--').partition('=')[::2] for arg in args)
  assert {option.partition('.')[0] for option in options} <= known
  if 'distributed' not in options:
    assert int(options['num_processes']) == job['completions']
    assert options['process_id'] == '$(JOB_COMPLETION_INDEX)'
    host, _, port = options['coordinator'].partition(':')
    # The name of pod 0: JobSet, job, number of the job, number of the pod.
    assert host == 'sg3jax-workers-0-0.sg3jax'
    assert int(port) in [p['containerPort'] for p in container['ports']]


def test_the_tpu_slice_has_the_chips_of_its_topology():
  _, job, container = _job('jobset-tpu.yaml')
  selector = job['template']['spec']['nodeSelector']
  topology = selector['cloud.google.com/gke-tpu-topology']
  chips = container['resources']['limits']['google.com/tpu']
  assert job['completions'] * chips == math.prod(map(int, topology.split('x')))


def test_the_container_copies_what_the_build_needs():
  copied = re.findall(r'^COPY (.*) \S+$', _text('Containerfile'), re.MULTILINE)
  names = ' '.join(copied).split()
  assert all((ROOT / name).exists() for name in names)
  assert {'pyproject.toml', 'README.md', 'LICENSE', 'sg3jax', 'configs'} == set(
    names
  )
  assert 'ENTRYPOINT ["sg3jax"]' in _text('Containerfile')


@pytest.mark.exhaustive
@pytest.mark.skipif(
  not (shutil.which('docker') or shutil.which('podman')),
  reason='neither docker nor podman is installed',
)
def test_the_container_is_built_and_runs():
  tool = 'docker' if shutil.which('docker') else 'podman'
  subprocess.run(
    [
      tool, 'build', '-f', 'recipes/Containerfile', '--build-arg', 'EXTRA=cpu',
      '-t', 'sg3jax-test', '.',
    ],
    cwd=ROOT,
    check=True,
  )  # fmt: skip
  done = subprocess.run(
    [tool, 'run', '--rm', 'sg3jax-test'],
    capture_output=True,
    text=True,
    check=True,
  )
  assert 'self-test            passed' in done.stdout
