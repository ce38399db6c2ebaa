# Says what the image holds.
use strict;
use warnings;

open my $bundle, '<', '/srv/bundle' or die "/srv/bundle: $!\n";
my @lines = <$bundle>;
my ($revision) = $lines[-1] =~ /revision (\d+)/ or die "the bundle is cut off\n";
my @assets = glob '/srv/assets/*/*/*.txt';
printf "manyfiles revision=%d bundled=%d assets=%d\n", $revision, @lines - 1, scalar @assets;
