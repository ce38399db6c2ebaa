# bundle.pl DEPENDENCIES: prints size, checksum and path of each file of the packages that imports.txt names.
use strict;
use warnings;
use File::Basename qw(dirname);

my ($dependencies) = @ARGV;
my $own = dirname($0);
for my $name (lines("$own/imports.txt")) {
    my @paths = sort glob "$dependencies/$name/*/*.txt" or die "$dependencies has no $name\n";
    for my $path (@paths) {
        my $text = join "\n", lines($path);
        printf "%d %08x %s\n", length $text, unpack('%32C*', $text), $path;
    }
}
printf "end of the bundle of %s\n", lines("$own/version");

sub lines {
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!\n";
    chomp(my @lines = <$file>);
    return @lines;
}
