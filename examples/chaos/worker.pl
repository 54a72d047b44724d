#!/usr/bin/perl
# A service that misbehaves as it is told, and writes down what becomes of it: the chaos oracle's witness inside of
# the world. It knows nothing of reconcile, and nothing it writes passes through reconcile.
#
#   worker.pl REGISTER NAME GENERATION BEHAVIOUR
#
# Each line goes to REGISTER/NAME, one write each:
#
#   born PID TICKS GENERATION leader|child LEADER   a process of the service, its start in ticks since boot
#   beside PID OTHER...                             born as a leader while these others of the service lived
#   told PID                                        SIGTERM came
#   exit PID TICKS GENERATION CODE told|itself      about to end
use strict;
use warnings;
use POSIX qw(setsid _exit dup2);

my ($register, $name, $generation, $behaviour, $leader) = @ARGV;
my $told = 0;

# Start ticks of a live process; undef for a dead one, zombies among them.
sub ticks {
    my $pid = shift;
    open(my $stat, '<', "/proc/$pid/stat") or return undef;
    my $text = do { local $/; <$stat> } // return undef;
    my @fields = split ' ', $text =~ s/^.*\)//sr;
    return $fields[0] =~ /^[ZX]/ ? undef : $fields[19];
}

sub note {
    open(my $out, '>>', "$register/$name") or _exit 99;
    syswrite $out, join(' ', @_) . "\n";
}

# The look at the others and our own line are one step: of two leaders at once, one sees the other.
sub born {
    my ($role, $leader) = @_;
    open(my $lines, '+>>', "$register/$name") or _exit 99;
    flock($lines, 2) or _exit 99;
    seek($lines, 0, 0);
    my %alive;
    if ($role eq 'leader') {
        while (<$lines>) {
            my ($what, $pid, $ticks) = split;
            next unless $what eq 'born';
            my $now = ticks($pid);
            $alive{$pid} = 1 if defined $now && $now == $ticks;
        }
    }
    syswrite $lines, "born $$ " . ticks($$) . " $generation $role $leader\n";
    syswrite $lines, join(' ', 'beside', $$, sort keys %alive) . "\n" if %alive;
}

sub leave {
    my $code = shift;
    note('exit', $$, ticks($$), $generation, $code, $told ? 'told' : 'itself');
    _exit $code;
}

# A descendant in a session of its own, whose parent is gone: outside of group and session, deaf to SIGTERM.
sub escape {
    my $life = shift;
    my $leader = $$;
    my $child = fork() // return;
    if ($child) { waitpid $child, 0; return }
    setsid();
    my $grandchild = fork() // _exit 1;
    _exit 0 if $grandchild;
    $SIG{TERM} = 'IGNORE';
    born('child', $leader);
    sleep $life;
    _exit 0;
}

sub wait_for_ever { sleep 1000 while 1 }

sub pause { select undef, undef, undef, shift }

my %behave = (
    steady   => \&wait_for_ever,
    stubborn => sub { $SIG{TERM} = 'IGNORE'; wait_for_ever() },
    forking  => sub { escape(100_000) for 1 .. 3; wait_for_ever() },
    # Its environment is gone: no marker finds it.
    bare     => sub { %ENV = (); exec $^X, $0, @ARGV[0 .. 2], 'steady', $$ },
    titled   => sub { $0 = 'nobody knows me ' x 20; wait_for_ever() },
    away     => sub { $SIG{TERM} = 'DEFAULT'; exec '/usr/bin/sleep', '100000' },
    closed   => sub { POSIX::close($_) for 0 .. 50; wait_for_ever() },
    frozen   => sub { kill 'STOP', $$; wait_for_ever() },
    crashing => sub { pause(0.3 + rand 1.2); leave(3 + int rand 5) },
    dying    => sub { escape(100_000); pause(0.3 + rand 1.2); leave(3 + int rand 5) },
    clean    => sub { pause(0.4); leave(0) },
    # The classic daemon: the leader leaves at once, a child stays.
    daemon   => sub { escape(100_000); leave(0) },
    swarm    => sub { while (1) { escape(1); pause(0.3) } },
);

$SIG{TERM} = sub { $told = 1; note('told', $$); leave(0) };
# After an exec into ourselves we are the same process, on record already.
born('leader', $$) unless defined $leader;
($behave{$behaviour} // die "unknown behaviour `$behaviour`\n")->();
